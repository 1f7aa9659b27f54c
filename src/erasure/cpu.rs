//! Whether this machine's processor can run the codec that was compiled in.

/// The kernel of the code is C compiled for Haswell, and looks at no processor before it runs: on an older one
/// the process would die of an illegal instruction in the middle of a write. So it is checked at the start.
pub fn check_cpu() -> Result<(), String> {
    // Compiled for a processor of the builder's choosing: theirs to know that this one is such.
    if option_env!("RUST_REED_SOLOMON_ERASURE_ARCH").is_some() {
        return Ok(());
    }
    match missing_features() {
        missing if missing.is_empty() => Ok(()),
        missing => Err(format!(
            "this processor lacks {}, which the erasure code was compiled to use; build shoal on this machine with \
             RUST_REED_SOLOMON_ERASURE_ARCH=native in the environment",
            missing.join(", ")
        )),
    }
}

#[cfg(target_arch = "x86_64")]
fn missing_features() -> Vec<&'static str> {
    let features = [
        ("AVX", std::arch::is_x86_feature_detected!("avx")),
        ("AVX2", std::arch::is_x86_feature_detected!("avx2")),
        ("BMI1", std::arch::is_x86_feature_detected!("bmi1")),
        ("BMI2", std::arch::is_x86_feature_detected!("bmi2")),
        ("FMA", std::arch::is_x86_feature_detected!("fma")),
        ("LZCNT", std::arch::is_x86_feature_detected!("lzcnt")),
        ("MOVBE", std::arch::is_x86_feature_detected!("movbe")),
        ("POPCNT", std::arch::is_x86_feature_detected!("popcnt")),
    ];
    features.into_iter().filter(|(_, there)| !there).map(|(name, _)| name).collect()
}

/// Elsewhere the kernel is compiled for the target's baseline.
#[cfg(not(target_arch = "x86_64"))]
fn missing_features() -> Vec<&'static str> {
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_that_runs_the_tests_can_run_the_codec() {
        assert_eq!(check_cpu(), Ok(()));
    }
}
