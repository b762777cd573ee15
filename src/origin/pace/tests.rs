//! Tests of the pace, by tokio's paused clock.

use super::*;
use crate::metrics::Metrics;
use std::sync::Arc;

fn pacer() -> (Arc<OriginPacer>, Metrics) {
    let metrics = Metrics::new().unwrap();
    let meters = OriginMeters::new(metrics.clone(), "one".into(), crate::config::Prices::default());
    (Arc::new(OriginPacer::new(meters)), metrics)
}

fn soon(seconds: u64) -> Instant {
    Instant::now() + Duration::from_secs(seconds)
}

/// Passes as often as it may for `seconds`.
async fn passed(pacer: &OriginPacer, seconds: u64) -> u32 {
    let end = soon(seconds);
    let mut passed = 0;
    while Instant::now() < end && pacer.pass(Class::Nar, end).await.is_ok() {
        passed += 1;
    }
    passed
}

#[tokio::test(start_paused = true)]
async fn there_is_no_limit_before_an_origin_asks_for_one() {
    let (pacer, metrics) = pacer();
    let before = Instant::now();
    for _ in 0..10_000 {
        pacer.pass(Class::Nar, soon(5)).await.unwrap();
    }
    assert!(pacer.is_free() && Instant::now() == before);
    assert!(!metrics.text().unwrap().contains("narthex_origin_throttled_total{"));
}

#[tokio::test(start_paused = true)]
async fn a_throttle_halves_what_was_asked_and_the_limit_goes_up_again_until_it_is_gone() {
    let (pacer, metrics) = pacer();
    for _ in 0..400 {
        pacer.pass(Class::Nar, soon(5)).await.unwrap();
    }
    // Many answers of one flood are one reason.
    for _ in 0..50 {
        pacer.throttled(None);
    }
    assert!(!pacer.is_free());
    let first = passed(&pacer, 1).await;
    assert!((190..240).contains(&first), "{first}");
    tokio::time::sleep(Duration::from_secs(1)).await;
    pacer.throttled(None);
    let second = passed(&pacer, 1).await;
    assert!((100..=160).contains(&second), "{second}");
    assert!(passed(&pacer, 5).await > 5 * second);
    let text = metrics.text().unwrap();
    assert!(text.contains("narthex_origin_throttled_total{origin=\"one\"} 51"), "{text}");
    tokio::time::sleep(Duration::from_mins(1)).await;
    pacer.pass(Class::Nar, soon(5)).await.unwrap();
    assert!(pacer.is_free());
    assert!(metrics.text().unwrap().contains("narthex_origin_rate_limit{origin=\"one\"} 0"));
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_heeded_for_a_minute_at_most() {
    let (pacer, _) = pacer();
    pacer.throttled(Some(Duration::from_secs(30)));
    let PaceExceeded(wait) = pacer.pass(Class::Narinfo, soon(5)).await.unwrap_err();
    assert_eq!(wait, Duration::from_secs(30));
    tokio::time::sleep(Duration::from_secs(28)).await;
    let before = Instant::now();
    pacer.pass(Class::Narinfo, soon(5)).await.unwrap();
    assert!(before.elapsed() >= Duration::from_secs(2));
    pacer.throttled(Some(Duration::from_secs(1_000_000)));
    tokio::time::sleep(RETRY_AFTER_MAX).await;
    pacer.pass(Class::Narinfo, soon(5)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn narinfos_go_first_and_others_are_not_starved() {
    let (pacer, _) = pacer();
    pacer.throttled(None);
    let went = Arc::<Mutex<Vec<Class>>>::default();
    let mut waiting = Vec::new();
    for class in [Class::Nar, Class::Narinfo] {
        for _ in 0..20 {
            let (pacer, went) = (Arc::clone(&pacer), Arc::clone(&went));
            waiting.push(tokio::spawn(async move {
                pacer.pass(class, soon(60)).await.unwrap();
                went.lock().push(class);
            }));
            tokio::task::yield_now().await;
        }
    }
    for each in waiting {
        each.await.unwrap();
    }
    let went = went.lock();
    let urgent = went[..20].iter().filter(|class| **class == Class::Narinfo).count();
    assert!((14..=16).contains(&urgent), "{went:?}");
}

#[tokio::test(start_paused = true)]
async fn who_leaves_its_line_holds_up_nobody() {
    let (pacer, _) = pacer();
    pacer.throttled(Some(Duration::from_secs(3)));
    for _ in 0..5 {
        let leaving = pacer.pass(Class::Narinfo, soon(60));
        assert!(tokio::time::timeout(Duration::from_millis(1), leaving).await.is_err());
    }
    assert!(pacer.state.lock().has_no_line());
    pacer.pass(Class::Nar, soon(5)).await.unwrap();
}
