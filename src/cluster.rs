//! Parents, and the guard against circles.
