//! Tests of groups: which origin is asked first, and what an absence is worth.

use super::*;
use std::collections::BTreeSet;

fn weighted(name: &str, server: &Scripted, weight: u32) -> Origin {
    Origin { weight, ..http_origin(name, server) }
}

#[tokio::test]
async fn weighted_origins_share_the_paths_and_each_path_keeps_its_own() {
    let (one, two) =
        (Scripted::always(says(200, "a")).await, Scripted::always(says(200, "a")).await);
    let last = Scripted::always(says(200, "a")).await;
    let origins = origins(vec![
        http_origin("last", &last),
        weighted("one", &one, 1),
        weighted("two", &two, 1),
    ]);
    let path = |number: usize| format!("/{number}");
    let mut first = Vec::new();
    for number in 0..40 {
        first.push(found(fetch(&origins, &path(number)).await).origin);
    }
    for (number, origin) in first.iter().enumerate() {
        assert_eq!(found(fetch(&origins, &path(number)).await).origin, *origin);
    }
    assert_eq!(first.iter().copied().collect::<BTreeSet<_>>(), BTreeSet::from([1, 2]));
    assert_eq!((one.asked() + two.asked(), last.asked()), (80, 0));
}

#[tokio::test(start_paused = true)]
async fn what_one_of_a_group_does_not_give_the_others_are_asked_for() {
    for act in [says(404, ""), says(503, ""), Act::Hang] {
        let case = format!("{act:?}");
        let (bad, good) = (Scripted::always(act).await, Scripted::always(says(200, "a")).await);
        let group = vec![weighted("bad", &bad, 1_000), weighted("good", &good, 1)];
        let origins = origins(group);
        for number in 0..20 {
            let response = found(fetch(&origins, &format!("/{number}")).await);
            assert_eq!(&*response.origin_name, "good", "{case}");
        }
        assert!(bad.asked() > 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_final_absence_ends_the_search_and_does_not_hide_a_failure() {
    for (first, second, expected, last_asked) in [
        (says(404, ""), says(404, ""), "absent", 0),
        (says(503, ""), says(404, ""), "status", 0),
        (says(404, ""), says(503, ""), "found", 1),
        (says(404, ""), says(200, "a"), "found", 0),
    ] {
        let case = format!("{first:?} {second:?}");
        let (one, two) = (Scripted::always(first).await, Scripted::always(second).await);
        let last = Scripted::always(says(200, "a")).await;
        let authority = Origin { absence: AbsenceOf::Final, ..http_origin("two", &two) };
        let group = vec![http_origin("one", &one), authority, http_origin("last", &last)];
        let answer = fetch(&origins(group), "/x").await;
        assert_eq!(word(&answer), expected, "{case}");
        assert_eq!(last.asked(), last_asked, "{case}");
    }
}
