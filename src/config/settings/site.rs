//! The settings of a site: `[[site]]` and the tables in it.

use super::setting::{Fallback, Setting, SettingKind, SettingTable, Shape};
use std::time::Duration;

/// The tables, in the order of the reference.
pub(super) const TABLES: &[SettingTable] = &[
    SettingTable::new(
        "site",
        Shape::Repeated,
        "What is served under which host names, and from which origins.\n\n\
         Surrogate-Key: NAME NAME ... in a response, of any kind of site, names what the object \
         belongs to, for purges by key. No client is sent it. An object keeps at most 128 names \
         of at most 1,024 bytes each. An object with more or longer names goes with every name of \
         its site that is purged.",
    ),
    SettingTable::new(
        "site.cache_info",
        Shape::Once,
        "Fields of /nix-cache-info that this site answers in its own way. What is not set here \
         comes from the origin.",
    ),
    SettingTable::new(
        "site.lifetimes",
        Shape::Once,
        "How long answers of origins stay fresh, by class of object. Answers with status 200 are \
         stored, and absences, which answer 404; no other status ever is. A NAR with bytes proven \
         by their hash stays fresh for good. What an origin says of an answer (s-maxage, max-age, \
         Expires) can shorten its lifetime, never lengthen it.",
    ),
    SettingTable::new(
        "site.lifetimes.rule",
        Shape::Repeated,
        "Other lifetimes for some paths or classes of a binary cache; of several rules that match, \
         the first counts. What a rule does not say is as in [site.lifetimes].",
    ),
    SettingTable::new(
        "site.absence_filter",
        Shape::Optional,
        "What keys the bucket of a binary cache has, so that its origin is not asked for narinfos \
         that it cannot have: they are answered 404 at once, with the outcome absent_filter. Of \
         the keys that are absent, one in 250 is still asked for. Other classes are asked for as \
         without the filter. Every origin of the site must hold the keys of this one bucket.\n\n\
         1. Send the upload notices of the bucket to POST /api/v1/uploads on the admin listener, \
         with the bearer token: S3 event notifications, also in the envelopes of SNS and SQS, or \
         EventBridge's Object Created. At least once in feed_timeout something must come if \
         nothing is uploaded: an EventBridge schedule on the same way, or {\"keep_alive\": true}. \
         A notice that is not answered 200 must be sent again, for feed_retention.\n\n\
         2. Only then build the file: narthex filter build --help names the sources, which are a \
         listing, an inventory in CSV and a list of keys. The build needs 8 bytes of temporary \
         files a key, and makes 1.2 bytes a key. A reload doubles the memory of the filter while \
         it reads.\n\n\
         3. Send SIGHUP. /readyz says whether the filter answers, and if not, why. If a notice \
         may be missing (a late feed, a restart, a gap longer than half of feed_retention, an \
         unreadable notice), the filter steps aside, and the origin is asked as without it.\n\n\
         4. Build the file again from time to time, and reload. Uploads since the last build stay \
         in memory and in the journal, up to uploads_max.\n\n\
         A feed that knows what it has delivered can end a gap at once: {\"delivered\": \
         {\"since\": TIME, \"up_to\": TIME}}. The span must reach from before the gap to the \
         first notice after it. With several such sites, keep-alives and statements name theirs: \
         POST /api/v1/uploads?site=NAME. A notice also ends a remembered absence of any class, on \
         every site of that bucket.",
    ),
    SettingTable::new(
        "site.origin",
        Shape::Repeated,
        "A source of objects. Every site has at least one.\n\n\
         A NAR is asked of the origin that its narinfo came from. Another origin serves it only \
         if the FileHash proves its bytes, or in mid-body if it has the same strong entity tag \
         and length.",
    ),
    SettingTable::new(
        "site.origin.credentials",
        Shape::Once,
        "What lets the edge in. To an http:// or https:// origin, one of: user with \
         password_file, token_file, netrc_file; over https a client's certificate too. To an \
         s3:// origin, one of: a profile, key files, source, anonymous; without any, the first \
         that there is of: AWS_ACCESS_KEY_ID and its companions, a web identity, the default \
         profile, the endpoint of a container, the metadata of an EC2 instance. Secrets stand in \
         files, and are read again when these change or the origin answers 401 or 403. They go to \
         the scheme, host and port of the origin alone, not to the target of a redirect.\n\n\
         A 401 or 403 tells of the credentials, never of an object: the log names the origin and \
         the file, and so does /readyz. Every client of the edge can read what these credentials \
         let the edge read. Keys of AWS that expire are renewed in the background; if that fails, \
         the old ones serve until they expire. If a bucket refuses the time of a signature, the \
         next signatures have the time of the bucket's clock.",
    ),
    SettingTable::new("site.origin.timeouts", Shape::Once, "How long the origin is waited for."),
    SettingTable::new(
        "site.origin.breaker",
        Shape::Once,
        "When an origin is left alone: requests fail at once, or go on to the next, while one \
         probe at a time looks whether it answers again.",
    ),
    SettingTable::new(
        "site.origin.budget",
        Shape::Once,
        "What may be asked of the origin beyond what is wanted, so that an outage is not made \
         worse.",
    ),
    SettingTable::new(
        "site.origin.prices",
        Shape::Once,
        "What the origin's operator takes, in any currency: for narthex_origin_cost_total.",
    ),
];

/// The settings, in the order of the reference.
pub(super) const SETTINGS: &[Setting] = &[
    Setting::new("site.hosts", SettingKind::Texts, Fallback::Is("[]"))
        .example(r#"["cache.example.org"]"#)
        .doc(
            "Host names, without a port. Without any it is the default site, which answers for \
             every host that no other site has; there is at most one.",
        ),
    Setting::new(
        "site.name",
        SettingKind::Text,
        Fallback::Derived("the first host, else \"default\""),
    )
    .example(r#""main""#)
    .doc(
        "Its name in keys, logs and metrics. Objects are stored under it: another name starts \
             with an empty cache.",
    ),
    Setting::new(
        "site.kind",
        SettingKind::Word(&["nix-cache", "generic"]),
        Fallback::Is(r#""nix-cache""#),
    )
    .example(r#""generic""#)
    .doc(
        "What the site holds: a binary cache, with objects known by their paths and proven, or \
         anything else, cached as its responses say (see [site.caching]).",
    ),
    Setting::new(
        "site.trusted_public_keys",
        SettingKind::Texts,
        Fallback::Derived("the well-known key if every origin is cache.nixos.org, else none"),
    )
    .example(r#"["cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="]"#)
    .doc("Public keys, NAME:BASE64, as in Nix's trusted-public-keys."),
    Setting::new(
        "site.signatures",
        SettingKind::Word(&["require", "warn", "off"]),
        Fallback::Derived("\"require\" if keys are given or known, else \"off\""),
    )
    .example(r#""warn""#)
    .doc(
        "What a narinfo without a good signature gets; a path that follows from its content \
         address needs none. \"require\": 502, never stored. \"warn\": a log line and a count. \
         \"off\": no check.",
    ),
    Setting::new("site.base_path", SettingKind::Text, Fallback::Derived("none"))
        .example(r#""/nix-channels/store""#)
        .doc(
            "The path that clients ask below: http://HOST/nix-channels/store. What lies outside \
             of it is 404. Purges, lifetime rules and origins have paths without it.",
        ),
    Setting::new("site.follow_redirects_to", SettingKind::Texts, Fallback::Is("[]"))
        .example(r#"["objects.example.org"]"#)
        .doc(
            "Hosts that a redirect of an origin may lead to, beside its own. A redirect elsewhere \
             is a fault.",
        ),
    Setting::new(
        "site.cache_info.priority",
        SettingKind::Integer { min: 0, max: 1_000_000 },
        Fallback::Derived("the origin's"),
    )
    .example("30")
    .doc(
        "Priority; clients ask the cache with the lowest first. cache.nixos.org says 40, so a \
         cache nearby says less.",
    ),
    Setting::new(
        "site.cache_info.want_mass_query",
        SettingKind::Boolean,
        Fallback::Derived("the origin's"),
    )
    .example("true")
    .doc("WantMassQuery: whether clients may ask for many paths at once."),
    Setting::new("site.cache_info.store_dir", SettingKind::Text, Fallback::Derived("the origin's"))
        .example(r#""/nix/store""#)
        .doc("StoreDir: the folder of the store that the objects were built for."),
    fresh("site.lifetimes.narinfo").doc("HASH.narinfo."),
    fresh("site.lifetimes.nar").doc("nar/*, if no hash proves the bytes."),
    fresh("site.lifetimes.listing").doc("HASH.ls: the listing of a NAR."),
    fresh("site.lifetimes.log").doc("log/*: build logs."),
    fresh("site.lifetimes.debuginfo").doc("debuginfo/*."),
    fresh("site.lifetimes.realisation").doc("realisations/* and build-trace-v2/*."),
    fresh("site.lifetimes.cache_info").doc("nix-cache-info."),
    fresh("site.lifetimes.index").doc("index.html, also asked for as /."),
    fresh("site.lifetimes.other").doc("Anything else that the site's path rules let through."),
    Setting::new("site.lifetimes.absent", ABSENCE, Fallback::Is(r#""10s""#))
        .example(r#""30s""#)
        .doc(
            "An absence (404) of any class is remembered this long; 0s: not at all. At most 1m: a \
         client keeps a wrong 404 for an hour.",
        ),
    Setting::new("site.lifetimes.fresh_min", LIFETIME, Fallback::Is(r#""0s""#))
        .example(r#""1m""#)
        .doc(
            "An object stays fresh this long even if its origin says less, but never longer \
             than its lifetime. What is not to be stored, or to be confirmed each time (no-store, \
             private, no-cache), stays so.",
        ),
    Setting::new("site.lifetimes.stale_while_revalidate", LIFETIME, Fallback::Is(r#""0s""#))
        .example(r#""10m""#)
        .doc(
            "A stale object still serves this long while it is confirmed in the background. Not \
             one that was purged softly, nor one that its origin wants confirmed first \
             (must-revalidate, proxy-revalidate, no-cache, s-maxage); never an absence.",
        ),
    Setting::new("site.lifetimes.stale_if_error", LIFETIME, Fallback::Is(r#""7d""#))
        .example(r#""30d""#)
        .doc("A stale object still serves this long while no origin gives a usable answer."),
    Setting::new("site.lifetimes.revalidation_wait", WAIT_FOR_WORD, Fallback::Is(r#""1s""#))
        .example(r#""300ms""#)
        .doc(
            "A request waits this long for an origin to confirm a stale object. Then it gets the \
             stale object if stale_if_error permits that, and the origin's answer updates the \
             cache in the background.",
        ),
    Setting::new(
        "site.lifetimes.rule.paths",
        SettingKind::Texts,
        Fallback::Derived("every path of the rule's classes"),
    )
    .example(r#"["/log/*", "*.ls"]"#)
    .doc("Paths that the rule is for; * stands for any characters, slashes too."),
    Setting::new(
        "site.lifetimes.rule.classes",
        SettingKind::Texts,
        Fallback::Derived("every class at the rule's paths"),
    )
    .example(r#"["narinfo"]"#)
    .doc(
        "Classes that the rule is for, as they are called above: narinfo, nar, listing, log, \
         debuginfo, realisation, cache_info, index, other.",
    ),
    in_rule("site.lifetimes.rule.fresh", LIFETIME, "the lifetime of the class")
        .doc("How long an object stays fresh, or less if its origin says so."),
    in_rule("site.lifetimes.rule.fresh_min", LIFETIME, AS_FOR_THE_SITE)
        .doc("How long an object stays fresh even if its origin says less."),
    in_rule("site.lifetimes.rule.absent", ABSENCE, AS_FOR_THE_SITE)
        .doc("How long an absence (404) is remembered; 0s: not at all."),
    in_rule("site.lifetimes.rule.stale_while_revalidate", LIFETIME, AS_FOR_THE_SITE)
        .doc("How long a stale object still serves while it is confirmed in the background."),
    in_rule("site.lifetimes.rule.stale_if_error", LIFETIME, AS_FOR_THE_SITE)
        .doc("How long a stale object still serves while no origin gives a usable answer."),
    in_rule("site.lifetimes.rule.revalidation_wait", WAIT_FOR_WORD, AS_FOR_THE_SITE)
        .doc("How long a request waits for an origin to confirm a stale object."),
    Setting::new("site.absence_filter.file", SettingKind::Path, Fallback::Required)
        .example(r#""/var/lib/narthex/main.filter""#)
        .doc(
            "The filter. It is read at the start and, if it has changed, at a reload; without a \
             good one the edge works and asks its origin.",
        ),
    Setting::new(
        "site.absence_filter.journal",
        SettingKind::Path,
        Fallback::Derived("the file's name with .uploads behind it"),
    )
    .example(r#""/var/lib/narthex/main.filter.uploads""#)
    .doc("The file for uploads that the filter does not know. Of this site and process alone."),
    Setting::new(
        "site.absence_filter.bucket",
        SettingKind::Text,
        Fallback::Derived("the bucket of the site's s3:// origins"),
    )
    .example(r#""nix-cache""#)
    .doc(
        "The bucket, as notices and inventories name it; needed if the origin is no s3:// URL, \
         or one of an access point.",
    ),
    Setting::new(
        "site.absence_filter.feed_timeout",
        SettingKind::Duration { min: Duration::from_secs(1), max: Duration::from_hours(24) },
        Fallback::Is(r#""5m""#),
    )
    .example(r#""10m""#)
    .doc(
        "How long nothing may be heard of the feed, neither a notice nor a keep-alive, before the \
         filter steps aside; and how long a notice may take.",
    ),
    Setting::new(
        "site.absence_filter.feed_retention",
        SettingKind::Duration { min: Duration::from_secs(1), max: Duration::from_hours(24 * 30) },
        Fallback::Is(r#""1d""#),
    )
    .example(r#""6h""#)
    .doc(
        "How long the feed tries again to deliver a notice that was not answered 200. After an \
         interruption of at most half of it, such as a restart, the filter steps aside for so \
         long, unless the feed states before what it has delivered; after a longer one until \
         then, or until a newer file is loaded.",
    ),
    Setting::new(
        "site.absence_filter.uploads_max",
        SettingKind::Integer { min: 1, max: 100_000_000 },
        Fallback::Is("5_000_000"),
    )
    .example("1_000_000")
    .doc(
        "Uploads that are noted at most, at 24 bytes of memory and 32 of disk each. Beyond, \
         notices are refused and the filter steps aside until a newer file is loaded.",
    ),
    Setting::new("site.origin.url", SettingKind::Text, Fallback::Required)
        .flag("--origin")
        .named("NARTHEX_ORIGIN")
        .example(r#""https://cache.nixos.org""#)
        .doc(
            "s3://BUCKET?region=REGION in Nix's form, with endpoint=, profile= and scheme= if \
             needed; https://HOST; http://HOST:PORT (another Narthex too); or file:///FOLDER as \
             nix copy --to file:// writes it. Each of https://, http:// and endpoint= may have a \
             path that the cache or the service lies below. If a bucket answers that it is in \
             another region, that region is used until the next start or reload, and logged. The \
             flag and the variable replace all sites by one \
             default site with this one origin.",
        ),
    Setting::new(
        "site.origin.name",
        SettingKind::Text,
        Fallback::Derived("the host, bucket or folder of the URL"),
    )
    .example(r#""upstream""#)
    .doc("Its name in logs and metrics."),
    Setting::new(
        "site.origin.priority",
        SettingKind::Integer { min: 0, max: 1_000_000 },
        Fallback::Is("10"),
    )
    .example("20")
    .doc("Lower is asked first; among equals, those with a weight, then the order of the file."),
    Setting::new(
        "site.origin.weight",
        SettingKind::Integer { min: 0, max: 1_000 },
        Fallback::Is("0"),
    )
    .example("3")
    .doc(
        "Its share of the paths among the origins of its priority that have a weight: which \
             one is asked first goes by the path, so that each path has its own. 0: it is asked \
             after those, in the order of the file.",
    ),
    Setting::new(
        "site.origin.absence",
        SettingKind::Word(&["next", "final"]),
        Fallback::Is(r#""next""#),
    )
    .example(r#""final""#)
    .doc(
        "If this origin has no such object: \"next\" asks the next one, \"final\" asks none \
         behind it. A failure always goes on to the next.",
    ),
    Setting::new("site.origin.optional", SettingKind::Boolean, Fallback::Is("false"))
        .example("true")
        .doc(
            "Whether this origin counts as not having the object while it is down: it cannot be \
             connected to, breaks off, gives no answer in time, answers 429 or 5xx, or is left \
             alone. If no other origin has the object or fails, clients then get 404 rather than \
             502, ask their next cache or build, and do not fail. This 404 has the outcome \
             absent_optional and is not remembered here, but a Nix client remembers the 404 of a \
             narinfo for an hour (narinfo-cache-negative-ttl). A stale object still serves for \
             stale_if_error. Refused credentials stay a failure.",
        ),
    Setting::new("site.origin.requester_pays", SettingKind::Boolean, Fallback::Is("false"))
        .example("true")
        .doc("Whether x-amz-request-payer is sent, so that a requester-pays bucket answers."),
    Setting::new("site.origin.prefix", SettingKind::Text, Fallback::Derived("none"))
        .example(r#""nix/main""#)
        .doc(
            "The folder of the bucket that the cache lies in: PREFIX/nix-cache-info is the key of \
             nix-cache-info. For s3:// origins alone; the URL of an http origin has a path.",
        ),
    Setting::new(
        "site.origin.addressing",
        SettingKind::Word(&["path", "virtual-host"]),
        Fallback::Derived(
            "\"path\" if the URL names an endpoint or the bucket's name has a dot, else \
             \"virtual-host\"",
        ),
    )
    .example(r#""virtual-host""#)
    .doc(
        "The place of the bucket's name: https://ENDPOINT/BUCKET/KEY or \
         https://BUCKET.ENDPOINT/KEY.",
    ),
    Setting::new(
        "site.origin.http_version",
        SettingKind::Word(&["auto", "1.1", "2"]),
        Fallback::Is(r#""auto""#),
    )
    .example(r#""1.1""#)
    .doc(
        "The version of HTTP. \"auto\": over https what the origin chooses of 2 and 1.1, over http \
         1.1. \"2\": HTTP/2 alone, over http without negotiation. Hosts that a redirect leads to \
         choose by themselves.",
    ),
    Setting::new(
        "site.origin.proxy",
        SettingKind::Text,
        Fallback::Derived(
            "the one that http_proxy, https_proxy or all_proxy names, unless no_proxy has the host",
        ),
    )
    .example(r#""none""#)
    .doc(
        "The HTTP proxy that this origin and the targets of its redirects are asked through: \
         \"http://HOST:PORT\", \"http://NAME:PASSWORD@HOST:PORT\", or \"none\". https goes through \
         CONNECT, with TLS to the origin inside; http in absolute form. Without it the variables \
         count as curl reads them (http_proxy in small letters only), but never for this machine. \
         An s3:// origin asks for its keys in the same way, and key endpoints of its machine \
         directly.",
    ),
    Setting::new(
        "site.origin.ca_file",
        SettingKind::Path,
        Fallback::Derived("the system's authorities"),
    )
    .example(r#""/etc/narthex/tls/private-ca.pem""#)
    .doc("PEM file of certificate authorities to trust for this origin."),
    Setting::new(
        "site.origin.trusted_public_keys",
        SettingKind::Texts,
        Fallback::Derived("those of the site, else the well-known key of cache.nixos.org"),
    )
    .example(r#"["cache.office.example-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="]"#)
    .doc(
        "Public keys, one of which must have signed a narinfo that comes from this origin; a \
         narinfo that none of them has signed is a failure of this origin, and the next is asked.",
    ),
    Setting::new(
        "site.origin.signatures",
        SettingKind::Word(&["require", "warn", "off"]),
        Fallback::Derived("that of the site"),
    )
    .example(r#""off""#)
    .doc(
        "What a narinfo of this origin without a good signature gets, as for the site: for one of \
         several caches that does not sign. Clients check signatures by their own settings.",
    ),
    objects("site.origin.only_for", r#"["narinfo", "/nar/*"]"#).doc(
        "Classes of objects (narinfo, nar, ... as in [site.lifetimes]) and paths (* stands for any \
         characters) that this origin is asked for; without any, all.",
    ),
    objects("site.origin.never_for", r#"["log", "/debuginfo/*"]"#)
        .doc("Classes and paths that this origin is never asked for."),
    objects("site.origin.first_for", r#"["nar"]"#).doc(
        "Classes and paths that this origin is asked for before those that do not say so, whatever \
         their priority. A NAR is asked of the origin that its narinfo came from before any other.",
    ),
    Setting::new(
        "site.origin.connections_max",
        SettingKind::Integer { min: 1, max: 100_000 },
        Fallback::Is("200"),
    )
    .example("500")
    .doc(
        "Requests to this origin under way at once. An eighth is kept from NARs, and half from \
         uploads. A client that has a quarter of the places of all uploads gets none of the last \
         quarter: its next upload waits, and is answered 503 if it gets no place in time. A slow \
         upload ends if one waits that brings more, or one of a client that has fewer, or one of \
         its own client. A client is an address, so all that come through one load balancer count \
         as one.",
    ),
    Setting::new(
        "site.origin.credentials.profile",
        SettingKind::Text,
        Fallback::Derived("no profile"),
    )
    .example(r#""nix-cache""#)
    .doc("A section of the shared AWS credentials and config files; also profile= in the URL."),
    Setting::new(
        "site.origin.credentials.access_key_id_file",
        SettingKind::Path,
        Fallback::Derived("no key files"),
    )
    .example(r#""/run/credentials/narthex.service/access-key-id""#)
    .doc("File of the access key's id. Key files are read again when the origin refuses them."),
    Setting::new(
        "site.origin.credentials.secret_access_key_file",
        SettingKind::Path,
        Fallback::Derived("no key files"),
    )
    .example(r#""/run/credentials/narthex.service/secret-access-key""#)
    .doc("File of the secret access key; belongs with access_key_id_file."),
    Setting::new(
        "site.origin.credentials.session_token_file",
        SettingKind::Path,
        Fallback::Derived("no session token"),
    )
    .example(r#""/run/credentials/narthex.service/session-token""#)
    .doc("File of the session token, if the keys are temporary."),
    Setting::new(
        "site.origin.credentials.source",
        SettingKind::Word(&["environment", "web-identity", "container", "instance"]),
        Fallback::Derived("each of them, and the default profile, in this order"),
    )
    .example(r#""instance""#)
    .doc(
        "The only place to look for keys: AWS_ACCESS_KEY_ID and its companions, the role of \
         AWS_ROLE_ARN by AWS_WEB_IDENTITY_TOKEN_FILE, AWS_CONTAINER_CREDENTIALS_FULL_URI (ECS, EKS \
         pod identity), or the metadata of an EC2 instance (IMDSv2).",
    ),
    Setting::new("site.origin.credentials.anonymous", SettingKind::Boolean, Fallback::Is("false"))
        .example("true")
        .doc("Whether requests go unsigned: for a public bucket."),
    Setting::new("site.origin.credentials.user", SettingKind::Text, Fallback::Derived("no user"))
        .example(r#""edge""#)
        .doc("The user's name of an HTTP origin that wants one; belongs with password_file."),
    secret("site.origin.credentials.password_file", r#""/run/credentials/narthex.service/office""#)
        .doc("File of that user's password, in one line."),
    secret("site.origin.credentials.token_file", r#""/run/credentials/narthex.service/token""#)
        .doc("File of a token that is sent as Authorization: Bearer TOKEN, in one line."),
    secret("site.origin.credentials.netrc_file", r#""/etc/nix/netrc""#).doc(
        "File in the form of Nix's netrc-file, with a name and password for the origin's host: \
         machine HOST login NAME password WORD.",
    ),
    secret("site.origin.credentials.client_certificate_file", r#""/etc/narthex/tls/client.pem""#)
        .doc(
            "PEM chain of a certificate that is shown to an https origin which asks for one; read \
             again at each reload. Belongs with client_key_file.",
        ),
    secret("site.origin.credentials.client_key_file", r#""/etc/narthex/tls/client-key.pem""#)
        .doc("PEM private key of that certificate."),
    Setting::new("site.origin.credentials.plain_http", SettingKind::Boolean, Fallback::Is("false"))
        .example("true")
        .doc(
            "Whether a password or token may go to an http:// origin, although others can read \
             it.",
        ),
    Setting::new("site.origin.timeouts.connect", WAIT, Fallback::Is(r#""5s""#))
        .example(r#""2s""#)
        .doc("Until a connection stands, TLS included."),
    Setting::new("site.origin.timeouts.first_byte", WAIT, Fallback::Is(r#""15s""#))
        .example(r#""30s""#)
        .doc("From the request to the head of the response."),
    Setting::new("site.origin.timeouts.between_bytes", WAIT, Fallback::Is(r#""10s""#))
        .example(r#""20s""#)
        .doc("Between two pieces of a body."),
    Setting::new("site.origin.timeouts.resume", WAIT, Fallback::Is(r#""1m""#))
        .example(r#""5m""#)
        .doc(
            "Without a byte of a body that this origin began and that broke off: its readers \
             wait so long for an origin that goes on with it.",
        ),
    Setting::new(
        "site.origin.breaker.failures",
        SettingKind::Integer { min: 0, max: 10_000 },
        Fallback::Is("10"),
    )
    .example("20")
    .doc(
        "Failures in a row until the origin is probed, and left alone if the probe fails too, or \
         as many more requests: no connection, which counts twice, a connection that broke, no \
         answer in time, 500, 502, 503, 504. One that took a second or longer counts three more. \
         No probe comes first if the last failure was a slow one, nor if the origin answered only \
         a probe since it was last in doubt. 0: never.",
    ),
    Setting::new("site.origin.breaker.open_max", WAIT, Fallback::Is(r#""10s""#))
        .example(r#""30s""#)
        .doc(
            "The longest time between two probes of an origin that is left alone; it begins with \
             a second and doubles, but stays there while requests come that it would be asked for. \
             An HTTP origin of a generic site that has been left alone for so long is tested by \
             requests of clients, one at a time.",
        ),
    Setting::new(
        "site.origin.breaker.probe_idle",
        SettingKind::Duration { min: Duration::ZERO, max: Duration::from_hours(24) },
        Fallback::Is(r#""0s""#),
    )
    .example(r#""30s""#)
    .doc(
        "An origin that was not asked for so long is probed, so that a fallback's state is known \
         before it is needed; 0s: only one that is left alone is.",
    ),
    Setting::new("site.origin.budget.retries", PERCENT, Fallback::Is("20")).example("10").doc(
        "Retries in percent of the requests, beside a reserve of ten that comes back within a \
         minute.",
    ),
    Setting::new("site.origin.budget.hedges", PERCENT, Fallback::Is("5")).example("0").doc(
        "Second requests for narinfos and nix-cache-info, in percent of the requests for them: \
         sent if the first has no answer after nearly all others had theirs; 0: none.",
    ),
    Setting::new("site.origin.prices.thousand_gets", SettingKind::Price, Fallback::Is("0"))
        .example("0.0004")
        .doc("Of a thousand GET requests."),
    Setting::new("site.origin.prices.thousand_heads", SettingKind::Price, Fallback::Is("0"))
        .example("0.0004")
        .doc("Of a thousand HEAD requests."),
    Setting::new("site.origin.prices.gib", SettingKind::Price, Fallback::Is("0"))
        .example("0.09")
        .doc("Of a GiB of bodies received."),
];

/// A share of the requests.
const PERCENT: SettingKind = SettingKind::Integer { min: 0, max: 100 };

/// A lifetime: zero asks the origin each time; at most ten years.
const LIFETIME: SettingKind =
    SettingKind::Duration { min: Duration::ZERO, max: Duration::from_hours(24 * 3_650) };

/// A wait for the word of an origin on what is stored: zero does not wait.
const WAIT_FOR_WORD: SettingKind =
    SettingKind::Duration { min: Duration::ZERO, max: Duration::from_hours(1) };

/// An absence: a client keeps a wrong one for an hour.
const ABSENCE: SettingKind =
    SettingKind::Duration { min: Duration::ZERO, max: Duration::from_mins(1) };

const AS_FOR_THE_SITE: &str = "that of [site.lifetimes]";

/// A wait on an origin: never zero, at most an hour.
const WAIT: SettingKind =
    SettingKind::Duration { min: Duration::from_millis(10), max: Duration::from_hours(1) };

const fn fresh(path: &'static str) -> Setting {
    Setting::new(path, LIFETIME, Fallback::Is(r#""1d""#)).example(r#""12h""#)
}

const fn objects(path: &'static str, example: &'static str) -> Setting {
    Setting::new(path, SettingKind::Texts, Fallback::Is("[]")).example(example)
}

const fn secret(path: &'static str, example: &'static str) -> Setting {
    Setting::new(path, SettingKind::Path, Fallback::Derived("none")).example(example)
}

const fn in_rule(path: &'static str, kind: SettingKind, otherwise: &'static str) -> Setting {
    Setting::new(path, kind, Fallback::Derived(otherwise)).example(r#""30s""#)
}
