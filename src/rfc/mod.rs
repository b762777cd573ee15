//! What RFCs 9110, 9111, 9211, 9213 and 5861 fix, as pure functions.
