package mirror

import (
	"crypto/ecdh"
	"crypto/rand"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"net"

	utls "github.com/refraction-networking/utls"

	"busel/obfs/look"
)

// greaseValue draws one of the 16 values of RFC 8701.
func greaseValue() uint16 {
	var b [1]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	v := uint16(b[0]&0xf0 | 0x0a)
	return v<<8 | v
}

// spec turns a look into utls's terms, anew for each connection: a spec that
// was used carries the old connection's shares. psk is how long the body of the
// pre-shared key extension will be; 0: the hello is a fresh one.
func spec(t *look.TLS, psk int) (*utls.ClientHelloSpec, error) {
	s := &utls.ClientHelloSpec{
		CipherSuites:       append([]uint16(nil), t.Ciphers...),
		CompressionMethods: []byte{0},
	}
	for _, id := range t.IDs(psk > 0) {
		e, err := extension(t, id, psk)
		if err != nil {
			return nil, err
		}
		s.Extensions = append(s.Extensions, e)
	}
	if t.Permute {
		utls.ShuffleChromeTLSExtensions(s.Extensions)
	}
	return s, nil
}

// extension makes those extensions in utls's terms that utls must know to go on with
// the handshake. All others are what the look says.
func extension(t *look.TLS, id uint16, psk int) (utls.TLSExtension, error) {
	fixed, isFixed := t.Fixed[id]
	switch id {
	case look.GREASE:
		return &utls.UtlsGREASEExtension{}, nil
	case look.ExtServerName:
		return &utls.SNIExtension{}, nil
	case look.ExtStatusRequest:
		return &utls.StatusRequestExtension{}, nil
	case look.ExtSupportedGroups:
		return &utls.SupportedCurvesExtension{Curves: convert[utls.CurveID](t.Groups)}, nil
	case look.ExtPointFormats:
		return &utls.SupportedPointsExtension{SupportedPoints: []byte{0}}, nil
	case look.ExtSignatureAlgorithms:
		algs := convert[utls.SignatureScheme](t.Signatures)
		for i, a := range algs {
			if uint16(a) == look.GREASE { // utls draws everywhere but here
				algs[i] = utls.SignatureScheme(greaseValue())
			}
		}
		return &utls.SignatureAlgorithmsExtension{SupportedSignatureAlgorithms: algs}, nil
	case look.ExtALPN:
		return &utls.ALPNExtension{AlpnProtocols: append([]string(nil), t.ALPN...)}, nil
	case look.ExtSCT:
		return &utls.SCTExtension{}, nil
	case look.ExtExtendedMaster:
		return &utls.ExtendedMasterSecretExtension{}, nil
	case look.ExtCompressCertificate:
		return &utls.UtlsCompressCertExtension{Algorithms: convert[utls.CertCompressionAlgo](t.CertComp)}, nil
	case look.ExtSessionTicket:
		return &utls.SessionTicketExtension{}, nil
	case look.ExtPreSharedKey:
		return &utls.UtlsPreSharedKeyExtension{}, nil
	case look.ExtSupportedVersions:
		return &utls.SupportedVersionsExtension{Versions: append([]uint16(nil), t.Versions...)}, nil
	case look.ExtPSKModes:
		return &utls.PSKKeyExchangeModesExtension{Modes: []uint8{utls.PskModeDHE}}, nil
	case look.ExtKeyShare:
		e := &utls.KeyShareExtension{}
		for _, g := range t.Shares {
			s := utls.KeyShare{Group: utls.CurveID(g)}
			if g == look.GREASE {
				s.Data = []byte{0}
			}
			e.KeyShares = append(e.KeyShares, s)
		}
		return e, nil
	case look.ExtALPS:
		return &utls.ApplicationSettingsExtensionNew{SupportedProtocols: []string{"h2"}}, nil
	case look.ExtECH:
		e := &utls.GREASEEncryptedClientHelloExtension{}
		for _, a := range t.ECH.AEADs {
			e.CandidateCipherSuites = append(e.CandidateCipherSuites, utls.HPKESymmetricCipherSuite{KdfId: t.ECH.KDF, AeadId: a})
		}
		for _, n := range t.ECH.Payloads {
			if psk > 0 {
				n = t.ECH.PayloadFor(n, psk)
			}
			e.CandidatePayloadLens = append(e.CandidatePayloadLens, uint16(n-aeadTag)) // utls counts without it
		}
		return draw(e), nil
	case look.ExtRenegotiation:
		return &utls.RenegotiationInfoExtension{Renegotiation: utls.RenegotiateOnceAsClient}, nil
	}
	if !isFixed {
		return nil, fmt.Errorf("look has an extension %d that cannot be built", id)
	}
	return &utls.GenericExtension{Id: id, Data: append([]byte(nil), fixed...)}, nil
}

// aeadTag is the length of the tags of HPKE's AEADs in bytes.
const aeadTag = 16

// draw leaves e one AEAD: utls draws its two halves independently.
func draw(e *utls.GREASEEncryptedClientHelloExtension) *utls.GREASEEncryptedClientHelloExtension {
	i := mrand.IntN(len(e.CandidateCipherSuites))
	e.CandidateCipherSuites = e.CandidateCipherSuites[i : i+1]
	return e
}

func convert[T ~uint16](in []uint16) []T {
	out := make([]T, len(in))
	for i, v := range in {
		out[i] = T(v)
	}
	return out
}

// resumption is what one connection resumes from and where its own tickets go to. It
// is the connection's session cache.
type resumption struct {
	session *utls.ClientSessionState // nil: the hello is a fresh one
	put     func(*utls.ClientSessionState)
}

// Get gives the session away: it is offered once.
func (r *resumption) Get(string) (*utls.ClientSessionState, bool) {
	s := r.session
	r.session = nil
	return s, s != nil
}

// Put takes a ticket; nil says that the session has expired.
func (r *resumption) Put(_ string, s *utls.ClientSessionState) {
	if s != nil {
		r.put(s)
	}
}

// pskLen is how long the body of the pre-shared key extension is with a session: one
// identity and one binder (RFC 8446, section 4.2.11).
func pskLen(s *utls.ClientSessionState) int {
	hash := 32
	if s.CipherSuite() == utls.TLS_AES_256_GCM_SHA384 {
		hash = 48
	}
	return 2 + 2 + len(s.SessionTicket()) + 4 + 2 + 1 + hash
}

// newTLS prepares a handshake over conn with a look. It offers the session of res, if
// there is one that can still be used, and leaves it there if not; nil keeps no tickets
// either. sign, if not nil, gives the session id for a ClientHello
// and the private half of its x25519 share.
func newTLS(conn net.Conn, l *look.Look, cfg *utls.Config, res *resumption, sign func(msg []byte, e *ecdh.PrivateKey) ([]byte, error)) (*utls.UConn, error) {
	psk := 0
	if res != nil {
		cfg = cfg.Clone()
		cfg.ClientSessionCache, cfg.SessionTicketsDisabled, cfg.InsecureSkipTimeVerify = res, false, true
		cfg.OmitEmptyPsk = true
		if res.session != nil {
			psk = pskLen(res.session)
		}
	}
	u := utls.UClient(conn, cfg, utls.HelloCustom)
	s, err := spec(&l.TLS, psk)
	if err != nil {
		return nil, err
	}
	if err := u.ApplyPreset(s); err != nil {
		return nil, err
	}
	if l.TLS.Reuse {
		if err := reuse(u); err != nil {
			return nil, err
		}
	}
	if err := u.BuildHandshakeState(); err != nil {
		return nil, err
	}
	if psk > 0 && len(u.HandshakeState.Hello.PskIdentities) == 0 { // it has expired
		return newTLS(conn, l, cfg, res, sign)
	}
	if sign == nil {
		return u, nil
	}
	keys := u.HandshakeState.State13.KeyShareKeys
	if keys == nil || keys.Ecdhe == nil || keys.Ecdhe.Curve() != ecdh.X25519() {
		return nil, errors.New("look has no x25519 key share")
	}
	id, err := sign(u.HandshakeState.Hello.Raw, keys.Ecdhe)
	if err != nil {
		return nil, err
	}
	u.HandshakeState.Hello.SessionId = id
	return u, u.MarshalClientHello()
}

// reuse puts the plain x25519 share into the hybrid one, too (draft-ietf-tls-ecdhe-mlkem:
// the x25519 half is the last 32 bytes).
func reuse(u *utls.UConn) error {
	keys := u.HandshakeState.State13.KeyShareKeys
	for _, e := range u.Extensions {
		shares, ok := e.(*utls.KeyShareExtension)
		if !ok {
			continue
		}
		for _, s := range shares.KeyShares {
			if s.Group == utls.X25519MLKEM768 && keys.Ecdhe != nil && len(s.Data) == hybridShareLen {
				copy(s.Data[hybridShareLen-32:], keys.Ecdhe.PublicKey().Bytes())
				keys.MlkemEcdhe = keys.Ecdhe
				return nil
			}
		}
	}
	return errors.New("look has no hybrid key share")
}
