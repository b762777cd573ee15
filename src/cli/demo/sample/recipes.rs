//! What the sample cache holds: a small Linux system as a graph of packages, dependencies first.
//! Pure data. Names and edges follow the real packages; the contents are made up.

/// One package of the sample.
#[derive(Debug, Clone, Copy)]
pub struct Recipe {
    /// Name and version, as in the store path.
    pub name: &'static str,
    /// What its file tree looks like.
    pub kind: PackageKind,
    /// About as many KiB of NAR.
    pub kibibytes: usize,
    /// Names (without versions) of the packages it refers to; each stands before it in the table.
    pub needs: &'static [&'static str],
}

/// The shape of a package's file tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PackageKind {
    /// A shared library with headers and a pkg-config file.
    Library,
    /// Commands: wrappers in `bin` around binaries, and manual pages.
    Program,
    /// Read-only data under `share`.
    Data,
    /// A kernel image with modules.
    Kernel,
    /// The root: links to the commands of everything it needs.
    System,
}

impl Recipe {
    /// The name without the version: what stands before the first `-` that a digit follows.
    pub fn short_name(&self) -> &'static str {
        let mut parts = self.name.match_indices('-');
        let version = parts.find(|(position, _)| {
            self.name.as_bytes().get(position + 1).is_some_and(u8::is_ascii_digit)
        });
        version.and_then(|(position, _)| self.name.get(..position)).unwrap_or(self.name)
    }
}

const fn library(name: &'static str, kibibytes: usize, needs: &'static [&'static str]) -> Recipe {
    Recipe { name, kind: PackageKind::Library, kibibytes, needs }
}

const fn program(name: &'static str, kibibytes: usize, needs: &'static [&'static str]) -> Recipe {
    Recipe { name, kind: PackageKind::Program, kibibytes, needs }
}

const fn data(name: &'static str, kibibytes: usize) -> Recipe {
    Recipe { name, kind: PackageKind::Data, kibibytes, needs: &[] }
}

/// The packages, dependencies first; the last one's closure is all of them.
pub const RECIPES: [Recipe; 52] = [
    data("mailcap-2.1.54", 1),
    data("iana-etc-20250505", 120),
    data("tzdata-2025b", 900),
    data("nss-cacert-3.117", 480),
    data("dejavu-fonts-2.37", 2600),
    library("libunistring-1.4.1", 700, &[]),
    library("libidn2-2.3.8", 180, &["libunistring"]),
    library("xgcc-14.3.0-libgcc", 90, &[]),
    library("glibc-2.40-66", 3600, &["libidn2", "xgcc"]),
    library("gcc-14.3.0-lib", 2300, &["glibc", "xgcc"]),
    library("zlib-1.3.1", 70, &["glibc"]),
    library("bzip2-1.0.8", 45, &["glibc"]),
    library("xz-5.8.1", 260, &["glibc"]),
    library("zstd-1.5.7", 500, &["glibc"]),
    library("gmp-6.3.0", 420, &["glibc", "gcc"]),
    library("attr-2.5.2", 30, &["glibc"]),
    library("acl-2.3.2", 50, &["attr", "glibc"]),
    library("libxcrypt-4.4.38", 110, &["glibc"]),
    library("libffi-3.5.2", 40, &["glibc"]),
    library("expat-2.7.3", 130, &["glibc"]),
    library("pcre2-10.46", 340, &["glibc"]),
    library("ncurses-6.5", 700, &["glibc", "gcc"]),
    library("readline-8.3p1", 210, &["glibc", "ncurses"]),
    library("gdbm-1.26", 90, &["glibc", "readline"]),
    library("keyutils-1.6.3-lib", 10, &["glibc"]),
    library("openssl-3.6.0", 2900, &["glibc"]),
    program("bash-5.3p3", 900, &["glibc", "ncurses", "readline"]),
    library("libkrb5-1.22.1", 560, &["glibc", "keyutils", "openssl", "bash"]),
    library("nghttp2-1.67.1-lib", 110, &["glibc"]),
    library("libpsl-0.21.5", 80, &["libidn2", "libunistring", "glibc"]),
    library("libssh2-1.11.1", 160, &["glibc", "openssl", "zlib"]),
    library("sqlite-3.50.4", 800, &["glibc", "zlib", "readline"]),
    library(
        "libarchive-3.8.2-lib",
        420,
        &["acl", "attr", "bzip2", "glibc", "openssl", "xz", "zstd"],
    ),
    library(
        "curl-8.17.0",
        390,
        &["glibc", "libidn2", "libkrb5", "libpsl", "libssh2", "nghttp2", "openssl", "zlib", "zstd"],
    ),
    program("coreutils-9.8", 800, &["acl", "attr", "glibc", "gmp", "openssl"]),
    program("gnugrep-3.12", 260, &["bash", "glibc", "pcre2"]),
    program("gnused-4.9", 180, &["acl", "glibc"]),
    program("findutils-4.10.0", 330, &["coreutils", "glibc"]),
    program("gzip-1.14", 90, &["bash", "glibc", "gnugrep"]),
    program("gnutar-1.35", 320, &["acl", "glibc"]),
    program("less-679", 170, &["glibc", "ncurses"]),
    program("perl-5.42.0", 5200, &["coreutils", "glibc", "libxcrypt", "zlib"]),
    program(
        "python3-3.13.9",
        9200,
        &[
            "bash",
            "bzip2",
            "expat",
            "gdbm",
            "glibc",
            "libffi",
            "libxcrypt",
            "mailcap",
            "ncurses",
            "openssl",
            "readline",
            "sqlite",
            "tzdata",
            "xz",
            "zlib",
        ],
    ),
    program("openssh-10.2p1", 1300, &["bash", "glibc", "libkrb5", "libxcrypt", "openssl", "zlib"]),
    program(
        "git-2.51.2",
        8200,
        &[
            "bash",
            "coreutils",
            "curl",
            "expat",
            "gcc",
            "glibc",
            "gnugrep",
            "gnused",
            "less",
            "openssh",
            "openssl",
            "pcre2",
            "perl",
            "python3",
            "zlib",
        ],
    ),
    program(
        "util-linux-2.41.2",
        1100,
        &["bash", "coreutils", "glibc", "libxcrypt", "ncurses", "zlib"],
    ),
    program(
        "systemd-258.2",
        6100,
        &["acl", "bash", "coreutils", "curl", "glibc", "openssl", "util-linux", "xz", "zstd"],
    ),
    program(
        "nix-2.31.2",
        2400,
        &["bash", "curl", "gcc", "glibc", "libarchive", "openssl", "sqlite"],
    ),
    program("vim-9.1.1869", 2700, &["bash", "gcc", "glibc", "ncurses"]),
    Recipe { name: "linux-6.12.58", kind: PackageKind::Kernel, kibibytes: 24_000, needs: &[] },
    data("nixos-manual-25.11", 330),
    Recipe {
        name: "nixos-system-demo-25.11",
        kind: PackageKind::System,
        kibibytes: 8,
        needs: &[
            "bash",
            "coreutils",
            "curl",
            "dejavu-fonts",
            "findutils",
            "git",
            "gnugrep",
            "gnused",
            "gnutar",
            "gzip",
            "iana-etc",
            "less",
            "linux",
            "nix",
            "nixos-manual",
            "nss-cacert",
            "openssh",
            "perl",
            "python3",
            "systemd",
            "tzdata",
            "util-linux",
            "vim",
        ],
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn needs_stand_before_those_that_need_them() {
        let mut known = HashSet::new();
        for recipe in RECIPES {
            for need in recipe.needs {
                assert!(known.contains(need), "{} needs {need}", recipe.name);
            }
            assert!(known.insert(recipe.short_name()), "{} stands twice", recipe.name);
        }
    }

    #[test]
    fn the_last_one_needs_all_of_them() {
        let mut wanted: HashSet<_> = HashSet::from(["nixos-system-demo"]);
        for recipe in RECIPES.iter().rev() {
            assert!(wanted.contains(recipe.short_name()), "{} is not in the closure", recipe.name);
            wanted.extend(recipe.needs);
        }
    }

    #[test]
    fn a_short_name_ends_before_the_version() {
        let short = |name| library(name, 1, &[]).short_name();
        assert_eq!(short("nss-cacert-3.117"), "nss-cacert");
        assert_eq!(short("gcc-14.3.0-lib"), "gcc");
        assert_eq!(short("plain"), "plain");
    }
}
