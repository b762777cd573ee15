//! What is wrong is told: all of it, where, and what to write instead.

use super::super::settings::{settings, tables};
use super::super::{FlagOverrides, SourcePlace, Sources, load};
use super::{home, load_text, problem, problems, warnings};
use proptest::prelude::{Just, Strategy, prop_oneof, proptest};
use proptest::sample::select;

/// A site with one origin, after `lines`.
fn site(lines: &str) -> String {
    format!("[[site]]\n{lines}\n[[site.origin]]\nurl = 'file:///srv'\n")
}

/// A site with an origin that has `lines` beside its URL.
fn origin(url: &str, lines: &str) -> String {
    format!("[[site]]\n[[site.origin]]\nurl = '{url}'\n{lines}\n")
}

#[test]
fn every_problem_is_told_at_once_in_the_order_of_the_file() {
    let text = r#"[server]
lisen = ["[::]:80"]
http2 = "yes"
[disk]
size = "50G"
[[site]]
hosts = ["a.example.org:80"]
signatures = "require"
[[site.origin]]
url = "s3:/x"
[[site.origin]]
priority = 1
[site.origin.timeouts]
connect = "0s"
"#;
    let wanted = [
        "config.toml:2: server.lisen: is not a setting; the nearest is server.listen",
        "config.toml:3: server.http2: \"yes\" is neither true nor false",
        "config.toml:5: disk.size: \"50G\" is not a size: the unit \"G\" is none of B, KiB",
        "config.toml:7: site[0].hosts[0]: \"a.example.org:80\" has a port; write \"a.example.org\"",
        "config.toml:10: site[0].origin[0].url: \"s3:/x\" is not an origin URL; write \
         s3://BUCKET?region=REGION, https://HOST, http://HOST:PORT or file:///FOLDER",
        "config.toml:11: site[0].origin[1].url: is missing; write url = ",
        "config.toml:14: site[0].origin[1].timeouts.connect: \"0s\" is too short",
    ];
    let problems = problems(text);
    assert_eq!(problems.len(), wanted.len(), "{problems:#?}");
    for (problem, wanted) in problems.iter().zip(wanted) {
        assert!(problem.starts_with(wanted), "{problem}\n{wanted}");
    }
}

#[test]
fn a_text_that_is_not_toml_is_told_with_line_and_column() {
    let problems = load_text("[server]\nhttp2 = = true\n[disk\n").unwrap_err();
    let first = &problems.0[0];
    assert_eq!(first.line(), Some(2));
    assert!(matches!(first.place, SourcePlace::File { column: Some(9), .. }), "{first:?}");
    assert!(first.to_string().starts_with("config.toml:2:9: this is not TOML: "), "{first}");
    assert!(problems.0.iter().any(|problem| problem.line() == Some(3)), "{problems}");
    assert!(problem("a = 1\na = 2").contains("duplicate key"));
}

#[test]
fn an_unknown_key_is_told_with_the_nearest_known_one() {
    assert!(problem("memory.siez = 1").contains("nearest is memory.size"));
    assert!(problem("memory.Size = 1").contains("nearest is memory.size"));
    assert!(problem("listen = ['[::]:80']").contains("server.listen is: write it under server"));
    assert!(problem("lisen = ['[::]:80']").contains("nearest is server.listen"));
    assert!(problem(&site("zzz = 1")).contains("those known here are hosts, name, "));
    assert!(problem("\"\\u0000 x\" = 1").starts_with("config.toml:1: \"\\0 x\": is not"));
    assert!(problem("sites = 1").contains("nearest is site"));
    let secret = problem(&origin("s3://abc", "secret_access_key = 'hush'"));
    assert!(secret.contains("secret_access_key_file") && !secret.contains("hush"), "{secret}");
}

#[test]
fn tables_are_told_from_lists_and_values() {
    assert!(problem("server = 5").contains("server: is not one table; write [server]"));
    assert!(problem("[[server]]").contains("write [server]"));
    assert!(problem("[site]").contains("write [[site]], with two brackets"));
    assert!(problem("site = [1]").contains("site[0]: is not a table"));
    assert!(problem("site = []").contains("is an empty list"));
    assert!(problem("[memory.size]").contains("a table is not a size"));
}

#[test]
fn what_two_cannot_have_is_told_with_both_places() {
    let two = site("hosts = ['a', 'b']") + &site("hosts = ['B']");
    let wanted = "config.toml:6: site[1].hosts[0]: \"b\" is also a host at site[0].hosts[1] \
                  (config.toml:2)";
    assert!(problem(&two).starts_with(wanted), "{}", problem(&two));
    let two = site("name = 'x'\nhosts = ['a']") + &site("name = 'x'\nhosts = ['b']");
    assert!(problem(&two).contains("is also the name of the site at site[0].name"));
    assert!(problem(&(site("") + &site(""))).contains("one default site at most"));
    assert!(problem(&site("hosts = ['a', 'a']")).contains("is also a host"));
    let addresses = "server.listen = ['[::]:80', '[::]:80', '[::]:0', '[::]:0']";
    assert!(problem(addresses).contains("is taken by server.listen[0]"));
    assert!(problem("server.listen = ['127.0.0.1:9145']").contains("is taken by"));
    let twice = origin("http://h/", "[[site.origin]]\nurl = 'https://h'");
    assert!(problem(&twice).contains("site[0].origin[1].name: \"h\" is also the name"));
    let other = |url| format!("[[site]]\nhosts = ['x']\n[[site.origin]]\nurl = '{url}'\n");
    assert_eq!(warnings(&(other("http://h") + &origin("http://h", ""))), [""; 0]);
    let problem = problem(&(other("http://h") + &origin("https://h", "")));
    assert!(problem.contains("is also the name of the origin at site[0]"), "{problem}");
}

#[test]
fn listeners_need_an_address_and_tls_a_certificate() {
    assert!(problem("server.listen = []").contains("leaves no listener"));
    assert!(problem("server.tls.listen = ['[::]:1']").contains("are missing; write [[server.tls"));
    let half = "[[server.tls.certificates]]\ncertificate = 'a'";
    assert!(problem(half).contains("certificates[0].key: is missing; write key = \"FILE\""));
    assert!(problem("server.name = 'a b'").contains("CDN-Loop"));
    let path = "server.limits = { path_bytes_max = '8KiB', request_head_bytes_max = '8KiB' }";
    assert!(problem(path).contains("is not less than request_head_bytes_max"));
}

#[test]
fn signatures_need_keys() {
    assert!(problem(&site("signatures = 'require'")).contains("\"require\" needs keys"));
    assert!(problem(&site("signatures = 'warn'")).contains("\"warn\" needs keys"));
    assert!(problem(&site("signatures = 'on'")).contains("\"require\" or \"warn\" or \"off\""));
    let mixed = origin("https://cache.nixos.org", "[[site.origin]]\nurl = 'file:///srv'");
    assert!(problem(&mixed).contains("only cache.nixos.org of this site's origins"));
    assert!(problem(&site("trusted_public_keys = ['a:b']")).contains("not base64"));
    let secret = format!("trusted_public_keys = ['mine:{}AA==']", "A".repeat(84));
    let secret = problem(&site(&secret));
    assert!(secret.contains("\"mine\" names a secret key") && !secret.contains("AAAA"));
}

#[test]
fn a_bucket_has_one_source_of_keys_and_nothing_else_has_any() {
    let of = |lines: &str| problem(&origin("s3://abc?profile=x", lines));
    assert!(of("credentials.anonymous = true").contains("more than one source"));
    assert!(of("credentials.profile = 'y'").contains("is not the profile \"x\" of the URL"));
    let of = |lines: &str| problem(&origin("s3://abc", lines));
    let missing = of("credentials.access_key_id_file = 'a'");
    assert!(missing.contains("credentials.secret_access_key_file: is missing"), "{missing}");
    assert!(of("requester_pays = true\ncredentials.anonymous = true").contains("anonymous = true"));
    let of = |lines: &str| problem(&origin("http://h", lines));
    assert!(of("requester_pays = false").contains("belongs to an s3:// origin only"));
    assert!(of("credentials.profile = 'x'").contains("belongs to an s3:// origin only"));
    assert!(of("ca_file = 'x'").contains("asked over https only"));
}

/// FAULTS.md G17.
#[test]
fn passwords_in_what_should_be_a_host_or_an_endpoint_are_not_told() {
    for wrong in ["https://me:hush@h", "me:hush@h:80", "http://h/?token=hush"] {
        for setting in ["hosts", "follow_redirects_to"] {
            let told = problem(&site(&format!("{setting} = ['{wrong}']")));
            assert!(told.contains("write ") && !told.contains("hush"), "{told}");
        }
    }
    for endpoint in
        ["http%3A%2F%2Fme:hush%40h", "http://h/?token=hush", "me:hush@h://x&scheme=http"]
    {
        let told = problem(&origin(&format!("s3://abc?endpoint={endpoint}"), ""));
        assert!(told.contains("endpoint= ") && !told.contains("hush"), "{told}");
    }
}

#[test]
fn odds_and_ends_are_told() {
    assert!(problem("disk.size = 5").contains("at least \"1MiB\", or 0 for no disk tier"));
    let three = "disk.path = ['/a', '/b', '/a/c']\ndisk.size = ['1GiB', '2GiB']";
    let told = problems(three);
    assert!(told[0].contains("disk.path[2]: \"/a/c\" lies in /a, which is another"), "{told:#?}");
    assert!(told[1].contains("disk.size: has 2 sizes for 3 folders"), "{told:#?}");
    assert!(
        problem("disk.path = ['/a', '/a']").contains("disk.path[1]: \"/a\" stands there twice")
    );
    assert!(problem("disk.path = ['/a/b', '/a']").contains("holds /a/b, which is another"));
    assert!(problem("disk.path = []").contains("is an empty list"));
    assert!(problem("disk.path = ['/a', 5]").contains("disk.path[1]: 5 is not a text"));
    let small = problem("disk.path = ['/a', '/b']\ndisk.size = ['1GiB', 0]");
    assert!(small.contains("disk.size[1]: is too small"), "{small}");
    assert!(problem("log.level = 'inof'").contains("the nearest is \"info\""));
    assert!(problem("[[site]]").contains("site[0].origin: is missing"));
    assert!(problem(&site("kind = 'git'")).contains("\"nix-cache\" or \"generic\""));
    let caching = |text: &str| problem(&site(&format!("kind = 'generic'\n[site.caching]\n{text}")));
    assert!(caching("targeted = ['a b']").contains("is no name of a header field"));
    assert!(caching("set_headers = ['a']").contains("write \"NAME: VALUE\""));
    assert!(caching("set_headers = ['Content-Length: 5']").contains("cannot be set"));
    assert!(caching("statuses = ['99']").contains("is no status"));
    assert!(caching("ttl_min = '2m'\nttl_max = '1m'").contains("is below ttl_min"));
    assert!(caching("query_names = ['a']").contains("is for query = \"only\" alone"));
    assert!(caching("[[site.caching.rule]]\npaths = []").contains("has no paths"));
    assert!(caching("[[site.caching.rule]]\npaths = ['a']").contains("the pattern of no path"));
    let generic = |text: &str| problem(&site(&format!("kind = 'generic'\n{text}")));
    let alone = "is for kind = \"nix-cache\" alone";
    assert!(generic("trusted_public_keys = []").contains(alone));
    assert!(generic("signatures = 'off'").contains(alone));
    assert!(generic("lifetimes.nar = '1h'").contains("see [site.caching]"));
    assert!(generic("[[site.lifetimes.rule]]\npaths = ['/a']").contains("see [site.caching]"));
    assert!(generic("cache_info.priority = 5").contains(alone));
    let rule = |text: &str| problem(&site(&format!("[[site.lifetimes.rule]]\n{text}")));
    assert!(problem(&site("[site.caching]\nttl_min = '1h'")).contains("kind = \"generic\" alone"));
    assert!(rule("fresh = '1h'").contains("neither for which paths nor for which classes"));
    assert!(rule("paths = []").contains("has no paths"));
    assert!(rule("paths = ['a']").contains("the pattern of no path"));
    assert!(rule("classes = ['nars']").contains("write one of narinfo, nar, listing"));
    assert!(rule("paths = ['/a']\nabsent = '2m'").contains("at most \"1m\""));
    let less = rule("paths = ['/a']\nfresh = '1m'\nfresh_min = '2m'");
    assert!(less.contains("is below fresh_min"));
    assert!(rule("paths = ['/a']\nttl_max = '1m'").contains("is not a setting here"));
    assert!(problem(&site("name = 'a b'")).contains("is not a name"));
    assert!(problem(&site("follow_redirects_to = ['http://x']")).contains("is a URL"));
    assert!(problem(&site("cache_info.store_dir = 'nix'")).contains("\"/nix/store\""));
    assert!(problem(&site("lifetimes.absent = '2m'")).contains("at most \"1m\""));
    let password = problem(&origin("https://me:hush@h", ""));
    assert!(password.contains("has a user or password") && !password.contains("hush"));
    assert_eq!(warnings(&origin("s3://abc?compression=xz", "")).len(), 1);
    for wrong in ["/", "", "nix", "/nix//store", "/a/../b", "/a?b", "/%61"] {
        let told = problem(&site(&format!("base_path = '{wrong}'")));
        assert!(told.contains("is not a path to ask below"), "{wrong}: {told}");
    }
    assert!(generic("base_path = '/a'").contains(alone));
    assert!(generic("[[site.origin]]\nurl = 'http://h'\noptional = true").contains(alone));
    for wrong in ["", "/", "/nix", "nix//main", "nix/../main"] {
        let told = problem(&origin("s3://abc", &format!("prefix = '{wrong}'")));
        assert!(told.contains("is not a prefix of keys"), "{wrong}: {told}");
    }
    assert!(problem(&origin("http://h", "prefix = 'a'")).contains("s3:// origin only"));
}

#[test]
fn what_lets_the_edge_in_fits_the_origin() {
    let with = |url: &str, lines: &str| {
        problem(&origin(url, &format!("[site.origin.credentials]\n{lines}")))
    };
    for (lines, wanted) in [
        ("user = 'u'", "password_file: is missing beside user"),
        ("password_file = 'p'", "user: is missing beside password_file"),
        ("user = 'a:b'\npassword_file = 'p'", "is not a user's name"),
        ("token_file = 't'\nnetrc_file = 'n'", "more than one way in"),
        ("client_key_file = 'k'", "client_certificate_file: is missing beside the other file"),
        ("profile = 'x'", "belongs to an s3:// origin only"),
        ("source = 'instance'", "belongs to an s3:// origin only"),
    ] {
        let problem = with("https://h", lines);
        assert!(problem.contains(wanted), "{problem}");
    }
    assert!(with("http://h", "token_file = 't'").contains("over plain http"));
    let plain = "[site.origin.credentials]\ntoken_file = 't'\nplain_http = true";
    assert!(load_text(&origin("http://h", plain)).is_ok());
    let certificate = "client_certificate_file = 'c'\nclient_key_file = 'k'";
    let text = origin("http://h", &format!("[site.origin.credentials]\n{certificate}"));
    assert!(problems(&text)[0].contains("asked over https only"));
    assert!(with("s3://abc", "token_file = 't'").contains("https:// origin only"));
    assert!(
        with("s3://abc", "source = 'instance'\nprofile = 'x'").contains("more than one source")
    );
    assert!(with("s3://abc", "source = 'imds'").contains("\"imds\""));
    let beside = |lines: &str| problem(&origin("https://h", lines));
    for wrong in ["socks5://me:hush@p:1", "p:3128", "hush", "http://me:hush@p"] {
        let told = beside(&format!("proxy = '{wrong}'"));
        assert!(told.contains("nor the URL of an HTTP proxy") && !told.contains("hush"), "{told}");
    }
    let folder = problem(&origin("file:///srv", "proxy = 'none'"));
    assert!(folder.contains("over http or https only"), "{folder}");
    assert!(beside("only_for = ['nars']").contains("nor a class of objects; write one of narinfo"));
    assert!(beside("never_for = ['*']").contains("leaves nothing to ask this origin for"));
    assert!(beside("trusted_public_keys = []").contains("has no keys"));
    assert!(beside("trusted_public_keys = ['a:b']").contains("not base64"));
    assert!(beside("signatures = 'require'").contains("\"require\" needs keys; write trusted"));
    let key = "trusted_public_keys = ['a-1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=']";
    let left_open = format!("{}[[site.origin]]\nurl = 'https://i'\n{key}", origin("https://h", ""));
    assert!(problem(&left_open).contains("write them for every origin or for the site"));
    let generic = format!("[[site]]\nkind = 'generic'\n[[site.origin]]\nurl = 'http://h'\n{key}");
    assert!(problem(&generic).contains("is for kind = \"nix-cache\" alone"));
    let generic = generic.replace(key, "signatures = 'off'");
    assert!(problem(&generic).contains("is for kind = \"nix-cache\" alone"));
}

#[test]
fn no_home_folder_is_told_only_where_one_is_needed() {
    let nowhere = Sources::default();
    let problems = load(&nowhere).unwrap_err().to_string();
    assert!(problems.starts_with("default: disk.path: is not set"), "{problems}");
    let flags = FlagOverrides { disk_size: vec!["0".into()], ..FlagOverrides::default() };
    assert!(load(&Sources { flags, ..nowhere }).is_ok());
}

#[test]
fn variables_and_flags_are_told_by_their_names() {
    let mut sources = home();
    sources.environment.push(("NARTHEX_SERVER_HTTP2".into(), "no".into()));
    sources.environment.push(("NARTHEX_ORIGIN".into(), "cache.nixos.org".into()));
    sources.flags.listen = vec!["[::]:80".into(), "8080".into()];
    sources.file = Some(("config.toml".into(), "not toml".into()));
    let problems = load(&sources).unwrap_err();
    let lines: Vec<_> = problems.0.iter().map(ToString::to_string).collect();
    assert!(lines[0].starts_with("config.toml:1:"), "{lines:#?}");
    assert!(
        lines.iter().any(|line| line.starts_with("NARTHEX_SERVER_HTTP2: server.http2: \"no\""))
    );
    assert!(lines.iter().any(|line| line.starts_with("--listen: server.listen: \"8080\" is not")));
    sources.file = None;
    let problems = load(&sources).unwrap_err().to_string();
    let wanted = "NARTHEX_ORIGIN: site[0].origin[0].url: \"cache.nixos.org\" is not an origin \
                  URL; write https://cache.nixos.org";
    assert!(problems.contains(wanted), "{problems}");
}

/// A line of TOML with a known or wrong path and any value.
fn lines() -> impl Strategy<Value = String> {
    let paths = settings().map(|setting| setting.path).chain(tables().map(|table| table.path));
    let paths = select(paths.collect::<Vec<_>>()).prop_map(str::to_owned);
    let paths = prop_oneof![4 => paths, 1 => "[a-z_]{1,8}(\\.[a-z_]{1,8}){0,2}"];
    let examples = select(settings().map(|setting| setting.example).collect::<Vec<_>>());
    let values = prop_oneof![
        3 => examples.prop_map(str::to_owned),
        1 => "\"[ -!#-\\[\\]-~]{0,12}\"",
        1 => "-?[0-9]{1,22}",
        1 => Just("[]".to_owned()),
        1 => Just("{}".to_owned()),
        1 => Just("[[1], {}, 1979-05-27, 1.5]".to_owned()),
    ];
    let lines = (paths, values);
    prop_oneof![
        4 => lines.prop_map(|(path, value)| {
            let (table, key) = path.rsplit_once('.').unwrap_or(("", &path));
            if table.is_empty() { format!("{key} = {value}") } else {
                format!("[{table}]\n{key} = {value}")
            }
        }),
        2 => Just("[[site]]".to_owned()),
        2 => Just("[[site.origin]]".to_owned()),
        1 => "(url|hosts|name|size|listen) = \"[ -!#-\\[\\]-~]{0,12}\"",
    ]
}

proptest! {
    #[test]
    fn no_text_panics(text in "(\\PC|\n){0,80}") {
        let _ = load_text(&text);
    }

    #[test]
    fn no_toml_panics_and_every_problem_has_a_line(
        lines in proptest::collection::vec(lines(), 0..12)
    ) {
        let text = lines.join("\n");
        match load_text(&text) {
            Ok(loaded) => assert!(!loaded.config.sites.is_empty()),
            Err(problems) => {
                assert!(!problems.0.is_empty());
                for problem in problems.0 {
                    assert!(problem.line().is_some(), "{text}\n{problem}");
                    assert_eq!(problem.to_string().lines().count(), 1, "{problem}");
                }
            }
        }
    }
}

#[test]
fn what_is_no_price_is_told() {
    for price in ["-1", "\"cheap\"", "1000000", "0.0000000001", "true", "nan", "1e3"] {
        let lines = format!("[site.origin.prices]\ngib = {price}");
        let told = problem(&origin("https://a.example.org", &lines));
        let place = "config.toml:5: site[0].origin[0].prices.gib: ";
        assert!(told.starts_with(place) && told.contains(" is not a price; write"), "{told}");
    }
    let lines = "[site.origin.prices]\nthousand_gets = 0.0004\ngib = \"0.09\"";
    let config = super::config(&origin("https://a.example.org", lines));
    let prices = config.sites[0].origins[0].prices;
    assert_eq!((prices.thousand_gets, prices.thousand_heads, prices.gib), (400_000, 0, 90_000_000));
}

#[test]
fn an_absence_filter_is_of_one_bucket() {
    let filter = |lines: &str, origins: &[&str]| {
        let tables = origins.iter().enumerate();
        let tables = tables
            .map(|(at, url)| format!("[[site.origin]]\nurl = '{url}'\nname = 'origin-{at}'\n"));
        let tables = tables.collect::<Vec<_>>().concat();
        format!("[[site]]\n[site.absence_filter]\n{lines}\n{tables}")
    };
    let (file, here, there) = ("file = '/f'", "s3://aaa", "s3://aaa?endpoint=http://h");
    let told = |lines, origins: &[&str]| problem(&filter(lines, origins));
    assert!(told(file, &["http://h"]).contains("says not which bucket"));
    assert!(told(file, &[here, "s3://bbb"]).contains("another place"));
    assert!(told("file = '/f'\nbucket = 'a'", &[here, "http://h"]).contains("another place"));
    let both = told("file = '/f'\nbucket = 'a'", &["http://g", "http://h"]);
    assert!(both.contains("another place"));
    assert!(told("bucket = 'a'", &["http://h"]).contains("file: is missing; write file = "));
    let prefix = format!(
        "[[site]]\n[site.absence_filter]\n{file}\n[[site.origin]]\nurl = '{here}'\nprefix = 'x'"
    );
    assert!(problem(&prefix).contains("an origin of the site has a prefix"));
    let generic = "[[site]]\nkind = 'generic'\n[site.absence_filter]\nfile = '/f'\n\
                   bucket = 'a'\n[[site.origin]]\nurl = 'http://h'";
    assert!(problem(generic).contains("kind = \"nix-cache\" alone"));
    let good = super::config(&filter(file, &[here, there])).sites.remove(0).absence_filter.unwrap();
    assert_eq!((good.bucket.as_str(), good.journal.to_str()), ("aaa", Some("/f.uploads")));
    let alias = filter("file = '/f'\nbucket = 'real'", &["s3://alias-s3alias"]);
    assert_eq!(super::config(&alias).sites[0].absence_filter.as_ref().unwrap().bucket, "real");
}
