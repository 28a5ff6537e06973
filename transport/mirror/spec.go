package mirror

import (
	"crypto/ecdh"
	"crypto/rand"
	"errors"
	"fmt"
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
// was used carries the old connection's shares.
func spec(t *look.TLS) (*utls.ClientHelloSpec, error) {
	s := &utls.ClientHelloSpec{
		CipherSuites:       append([]uint16(nil), t.Ciphers...),
		CompressionMethods: []byte{0},
	}
	for _, id := range t.Extensions {
		e, err := extension(t, id)
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

func extension(t *look.TLS, id uint16) (utls.TLSExtension, error) {
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
		return &utls.ApplicationSettingsExtensionNew{SupportedProtocols: append([]string(nil), t.ALPS...)}, nil
	case look.ExtTrustAnchors:
		return &utls.GenericExtension{Id: id, Data: append([]byte(nil), t.TrustAnchors...)}, nil
	case look.ExtECH:
		return utls.BoringGREASEECH(), nil
	case look.ExtRenegotiation:
		return &utls.RenegotiationInfoExtension{Renegotiation: utls.RenegotiateOnceAsClient}, nil
	}
	return nil, fmt.Errorf("look has an extension %d that cannot be built", id)
}

func convert[T ~uint16](in []uint16) []T {
	out := make([]T, len(in))
	for i, v := range in {
		out[i] = T(v)
	}
	return out
}

// newTLS prepares a handshake over conn with a look. It offers no PSK: each
// connection is a first visit. sign, if not nil, gives the session id for a
// ClientHello and the private half of its x25519 share.
func newTLS(conn net.Conn, l *look.Look, cfg *utls.Config, sign func(msg []byte, e *ecdh.PrivateKey) ([]byte, error)) (*utls.UConn, error) {
	u := utls.UClient(conn, cfg, utls.HelloCustom)
	s, err := spec(&l.TLS)
	if err != nil {
		return nil, err
	}
	if err := u.ApplyPreset(s); err != nil {
		return nil, err
	}
	if err := u.BuildHandshakeState(); err != nil {
		return nil, err
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
