//! The settings of the process: `[server]`, `[admin]`, `[memory]`, `[disk]`, `[log]`.

use super::setting::{Fallback, Setting, SettingKind, SettingTable, Shape};
use std::time::Duration;

/// The tables, in the order of the reference.
pub(super) const TABLES: &[SettingTable] = &[
    SettingTable::new("server", Shape::Once, "The public listeners."),
    SettingTable::new(
        "server.tls",
        Shape::Optional,
        "TLS listeners, with HTTP/2 and HTTP/1.1 by ALPN. Without this table there are none.",
    ),
    SettingTable::new(
        "server.tls.certificates",
        Shape::Repeated,
        "Certificates, chosen by the name that a client asks for (SNI); the first serves clients \
         that name none or an unknown one. The files are read again on SIGHUP.",
    ),
    SettingTable::new(
        "server.limits",
        Shape::Once,
        "What clients may take. A request beyond a limit is refused and counted, never queued \
         without end.",
    ),
    SettingTable::new(
        "server.pieces",
        Shape::Once,
        "Large objects that come slowly are fetched in pieces, over several connections at once, \
         from origins that say that they know ranges.",
    ),
    SettingTable::new(
        "server.timeouts",
        Shape::Once,
        "How long clients are waited for. There is no limit on the length of a download, only on \
         the time without progress. A client that has closed its side while it waits counts as \
         gone if it is sent no byte for 30 seconds.",
    ),
    SettingTable::new(
        "admin",
        Shape::Once,
        "The admin listener: /metrics, /healthz, /readyz and the purge interface. Never put it on \
         a public address.",
    ),
    SettingTable::new("memory", Shape::Once, "The hot tier: narinfos and other small objects."),
    SettingTable::new(
        "disk",
        Shape::Once,
        "The disk tier: NARs, and everything that survives a restart.",
    ),
    SettingTable::new(
        "log",
        Shape::Once,
        "The access log goes to standard output, the diagnostic log to \
         standard error.",
    ),
];

/// The settings, in the order of the reference.
pub(super) const SETTINGS: &[Setting] = &[
    Setting::new("server.listen", SettingKind::Addresses, Fallback::Is(r#"["[::]:8080"]"#))
        .flag("--listen")
        .example(r#"["0.0.0.0:80", "[::]:80"]"#)
        .doc(
            "Plain listeners: HTTP/1.1, and HTTP/2 by prior knowledge. [::] takes IPv4 clients \
             too. An empty list leaves only the TLS listeners.",
        ),
    Setting::new("server.name", SettingKind::Text, Fallback::Is(r#""""#))
        .example(r#""pop-fra-1""#)
        .doc(
            "This instance in CDN-Loop and in the logs; unique among the instances that ask each \
         other. Empty: made at start from the host's name and a random suffix.",
        ),
    Setting::new("server.http2", SettingKind::Boolean, Fallback::Is("true"))
        .example("false")
        .doc("Whether HTTP/2 is offered."),
    Setting::new("server.tls.listen", SettingKind::Addresses, Fallback::Is(r#"["[::]:8443"]"#))
        .example(r#"["[::]:443"]"#)
        .doc("TLS listeners."),
    Setting::new("server.tls.certificates.certificate", SettingKind::Path, Fallback::Required)
        .example(r#""/etc/narthex/tls/cache.example.org.pem""#)
        .doc("PEM file of the certificate chain, leaf first."),
    Setting::new("server.tls.certificates.key", SettingKind::Path, Fallback::Required)
        .example(r#""/etc/narthex/tls/cache.example.org.key""#)
        .doc("PEM file of the private key."),
    Setting::new("server.limits.connections_max", count_max(1_000_000), Fallback::Is("10000"))
        .example("50000")
        .doc("Open connections over all public listeners. Each takes a file descriptor."),
    Setting::new(
        "server.limits.connections_per_address_max",
        count_max(1_000_000),
        Fallback::Is("1000"),
    )
    .example("2000")
    .doc(
        "Open connections from one address. A Nix client opens up to 25 over plain HTTP, and a \
         whole office stands behind one address: this leaves room for 40 of them. Raise it on a \
         shield if its points of presence come from few addresses.",
    ),
    Setting::new("server.limits.request_headers_max", count_max(1_000), Fallback::Is("64"))
        .example("100")
        .doc("Header fields of a request; more are answered 431."),
    Setting::new(
        "server.limits.request_head_bytes_max",
        SettingKind::Size { min: 8 << 10, max: 1 << 20 },
        Fallback::Is(r#""16KiB""#),
    )
    .example(r#""32KiB""#)
    .doc("Bytes of a request's head; more are answered 431."),
    Setting::new(
        "server.limits.path_bytes_max",
        SettingKind::Size { min: 256, max: 64 << 10 },
        Fallback::Is(r#""2KiB""#),
    )
    .example(r#""4KiB""#)
    .doc("Bytes of a request's path; more are answered 414."),
    Setting::new("server.limits.streams_max", count_max(10_000), Fallback::Is("128"))
        .example("256")
        .doc("Concurrent streams of an HTTP/2 connection. A Nix client uses up to 100."),
    Setting::new("server.limits.fills_max", count_max(100_000), Fallback::Is("1024"))
        .example("4096")
        .doc(
            "Fetches from origins under way at once, over all sites; a request that would need \
             one more is answered 503. A fetch without readers makes room for another. An \
             eighth is kept for narinfos, a quarter from the other objects of one site, and the \
             last quarter from clients that have as many. A client is an address, so all that \
             come through one load balancer count as one. A body that no disk takes counts until \
             its head has come.",
        ),
    Setting::new(
        "server.limits.completion_size_max",
        SettingKind::Size { min: 0, max: 1 << 50 },
        Fallback::Is(r#""64MiB""#),
    )
    .example(r#""1GiB""#)
    .doc(
        "Of an object that is not on disk, a range brings in the 1 MiB chunks that it lies in. \
         If no more than this many bytes of the object are missing then, they are fetched in \
         the background; 0 for never.",
    ),
    Setting::new("server.limits.completions_max", count_max(10_000), Fallback::Is("4"))
        .example("16")
        .doc("Objects that are completed in the background at once; each counts as a fill too."),
    Setting::new(
        "server.pieces.size",
        SettingKind::Size { min: 1 << 20, max: 1 << 30 },
        Fallback::Is(r#""8MiB""#),
    )
    .example(r#""16MiB""#)
    .doc(
        "Bytes of a piece, in whole MiB: what is over is left out. An object comes in pieces if \
         more than two of them are missing; each is one more request to the origin.",
    ),
    Setting::new(
        "server.pieces.per_fill_max",
        SettingKind::Integer { min: 0, max: 1_000 },
        Fallback::Is("8"),
    )
    .example("16")
    .doc("Pieces of one object under way at once, beside its first connection; 0 for none."),
    Setting::new("server.pieces.max", count_max(100_000), Fallback::Is("64")).example("256").doc(
        "Pieces under way at once, over all objects; never more than half of the connections that \
         their origin may have. Clients with large objects under way have equal shares.",
    ),
    Setting::new(
        "server.pieces.after",
        SettingKind::Duration { min: Duration::ZERO, max: Duration::from_hours(1) },
        Fallback::Is(r#""2s""#),
    )
    .example(r#""5s""#)
    .doc(
        "Pieces are fetched if the rest of an object would take longer than this at the pace of \
         its first connection; 0 for always.",
    ),
    Setting::new("server.timeouts.tls_handshake", WAIT, Fallback::Is(r#""10s""#))
        .example(r#""5s""#)
        .doc("From accepting a connection to the end of the TLS handshake."),
    Setting::new("server.timeouts.request_head", WAIT, Fallback::Is(r#""15s""#))
        .example(r#""30s""#)
        .doc("From the first byte of a request to the end of its head."),
    Setting::new("server.timeouts.idle", WAIT, Fallback::Is(r#""1m15s""#))
        .example(r#""2m""#)
        .doc("An open connection without a request."),
    Setting::new("server.timeouts.write_stall", WAIT, Fallback::Is(r#""1m""#))
        .example(r#""2m""#)
        .doc("A client that acknowledges no byte of a response; noticed within a quarter more."),
    Setting::new(
        "server.timeouts.lame_duck",
        SettingKind::Duration { min: Duration::ZERO, max: Duration::from_hours(1) },
        Fallback::Is(r#""0s""#),
    )
    .example(r#""15s""#)
    .doc(
        "From SIGTERM until the listeners close: /readyz is 503 meanwhile, so that a load balancer \
         sends nothing more before a connection is refused.",
    ),
    Setting::new("server.timeouts.drain", WAIT, Fallback::Is(r#""30s""#)).example(r#""5m""#).doc(
        "From then until responses under way are cut. Let the service manager wait 20 s longer \
         than lame_duck and drain together: the disk tier is closed at the end.",
    ),
    Setting::new("admin.listen", SettingKind::AddressOrOff, Fallback::Is(r#""127.0.0.1:9145""#))
        .flag("--admin")
        .example(r#""[::1]:9145""#)
        .doc("The admin listener, or \"off\"."),
    Setting::new(
        "admin.token_file",
        SettingKind::Path,
        Fallback::Derived("purging is switched off"),
    )
    .example(r#""/etc/narthex/admin-token""#)
    .doc("File with the bearer token of the purge interface."),
    Setting::new(
        "memory.size",
        SettingKind::Size { min: 1 << 20, max: 1 << 50 },
        Fallback::Is(r#""512MiB""#),
    )
    .flag("--memory-size")
    .example(r#""8GiB""#)
    .doc("Bytes the hot tier may take, overhead included: about 1.5 KiB a narinfo."),
    Setting::new(
        "memory.absent_size",
        SettingKind::Size { min: 64 << 10, max: 1 << 40 },
        Fallback::Is(r#""16MiB""#),
    )
    .example(r#""64MiB""#)
    .doc(
        "Bytes that remembered absences may take, overhead included. They have a budget of their \
         own, so that requests for what does not exist never evict what does.",
    ),
    Setting::new(
        "disk.path",
        SettingKind::Paths,
        Fallback::Derived(
            "$CACHE_DIRECTORY (set by systemd), else $XDG_CACHE_HOME/narthex, else \
             $HOME/.cache/narthex",
        ),
    )
    .flag("--disk")
    .example(r#"["/srv/disk1/narthex", "/srv/disk2/narthex"]"#)
    .doc(
        "The folder, created if it is missing; or a list of them, each on a disk of its own. A \
         folder belongs to one instance alone. Objects are spread over the folders by their \
         sizes; a disk in trouble is passed over while the others go on, and comes back by \
         itself. Folders may be added, removed and put in another order at a restart.",
    ),
    Setting::new(
        "disk.size",
        SettingKind::Sizes { min: 0, max: 1 << 60 },
        Fallback::Is(r#""50GiB""#),
    )
    .flag("--disk-size")
    .example(r#""2TiB""#)
    .doc(
        "Bytes the tier may take in each folder; or a list with one size for each, such as \
             [\"2TiB\", \"500GiB\"]. 0 switches the tier off. One object takes at most half of \
             it. A 32nd, at most 4GiB, is kept free for what is being received, and of the file \
             system 64MiB, at most a 16th of the size, for the index.",
    ),
    Setting::new(
        "disk.scrub_pass",
        SettingKind::Duration { min: Duration::ZERO, max: Duration::from_hours(24 * 365) },
        Fallback::Is(r#""14d""#),
    )
    .example(r#""30d""#)
    .doc(
        "How long the scrubber takes to read every stored byte once and compare it with its \
         checksum, evenly spread; \"0s\" switches it off. A damaged object is dropped, and fetched \
         again if it was in use.",
    ),
    Setting::new(
        "disk.scrub_rate",
        SettingKind::Size { min: 64 << 10, max: 1 << 40 },
        Fallback::Is(r#""32MiB""#),
    )
    .example(r#""200MiB""#)
    .doc(
        "Bytes a second that the scrubber may read of each disk, and `narthex fsck` of a running \
         edge. A pass takes longer than scrub_pass if this does not suffice.",
    ),
    Setting::new(
        "log.access",
        SettingKind::Word(&["json", "combined", "off"]),
        Fallback::Is(r#""json""#),
    )
    .example(r#""combined""#)
    .doc("One line for each request: \"json\", \"combined\" or \"off\"."),
    Setting::new("log.level", SettingKind::Text, Fallback::Is(r#""info""#))
        .example(r#""info,narthex::origin=debug""#)
        .doc(
            "The diagnostic log: \"error\", \"warn\", \"info\", \"debug\", \"trace\" or \"off\", \
             and after a comma other levels for modules, such as \"info,narthex::origin=debug\".",
        ),
];

/// A wait on a client: never zero, at most an hour.
const WAIT: SettingKind =
    SettingKind::Duration { min: Duration::from_millis(100), max: Duration::from_hours(1) };

const fn count_max(max: u64) -> SettingKind {
    SettingKind::Integer { min: 1, max }
}
