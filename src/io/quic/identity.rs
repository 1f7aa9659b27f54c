//! A peer's key and the certificate that carries it.

use crate::id::{PeerKey, PeerTag};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::fmt;
use zeroize::Zeroizing;

/// The name in every certificate; nobody looks at it.
pub(super) const SERVER_NAME: &str = "shoal";

/// An Ed25519 key with a self-signed certificate: what a peer is, in TLS.
#[derive(Clone)]
pub struct Identity {
    key: PeerKey,
    pkcs8: Zeroizing<Vec<u8>>,
    certificate: CertificateDer<'static>,
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("no key could be generated: {0}")]
    Generate(rcgen::Error),
    #[error("the stored key is not an Ed25519 key in PKCS#8: restore it from a backup, or join anew with another home")]
    Damaged,
}

impl Identity {
    /// A new key from the system's random numbers.
    pub fn generate() -> Result<Identity, IdentityError> {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).map_err(IdentityError::Generate)?;
        Identity::certified(pair).map_err(IdentityError::Generate)
    }

    /// The key that [`Identity::pkcs8`] gave.
    pub fn from_pkcs8(bytes: &[u8]) -> Result<Identity, IdentityError> {
        let pair = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&bytes.into(), &rcgen::PKCS_ED25519)
            .map_err(|_| IdentityError::Damaged)?;
        Identity::certified(pair).map_err(|_| IdentityError::Damaged)
    }

    fn certified(pair: rcgen::KeyPair) -> Result<Identity, rcgen::Error> {
        let mut params = rcgen::CertificateParams::new([SERVER_NAME.to_owned()])?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        let certificate = params.self_signed(&pair)?.der().clone();
        let raw = <[u8; 32]>::try_from(pair.public_key_raw()).map_err(|_| rcgen::Error::KeyGenerationUnavailable)?;
        Ok(Identity { key: PeerKey(raw), pkcs8: Zeroizing::new(pair.serialize_der()), certificate })
    }

    /// The private key, to be kept where only its owner reads.
    pub fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    pub fn key(&self) -> PeerKey {
        self.key
    }

    pub fn tag(&self) -> PeerTag {
        self.key.tag()
    }

    pub(super) fn certificate(&self) -> CertificateDer<'static> {
        self.certificate.clone()
    }

    pub(super) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.pkcs8.to_vec()).into()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_survives_being_stored() {
        let identity = Identity::generate().unwrap();
        let again = Identity::from_pkcs8(identity.pkcs8()).unwrap();
        assert_eq!(again.key(), identity.key());
        assert_eq!(super::super::tls::key_of(&again.certificate()).unwrap(), identity.key());
        assert_ne!(Identity::generate().unwrap().key(), identity.key());
    }

    #[test]
    fn a_damaged_key_is_an_error_and_the_private_one_is_not_printed() {
        assert!(matches!(Identity::from_pkcs8(b"nonsense"), Err(IdentityError::Damaged)));
        let identity = Identity::generate().unwrap();
        assert_eq!(format!("{identity:?}"), format!("Identity({})", identity.key()));
    }
}
