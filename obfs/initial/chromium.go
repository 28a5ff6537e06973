package initial

import (
	"crypto/ecdh"
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
)

// What Chromium 156 says in a ClientHello over QUIC, as captured (docs/QUIC.md): all bodies are
// the same in each but for those that chromium writes. Extensions are in an order that is
// drawn, and so are the transport parameters.
const (
	chromiumCiphers = "130113021303"
	chromiumGroups  = "11ec001d00170018"
)

// entry is an extension, or a transport parameter.
type entry struct {
	id   uint64
	body []byte
}

func fixed(id uint64, body string) entry { return entry{id, constant(body)} }

func constant(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err) // it is a constant
	}
	return b
}

func chromiumExtensions() []entry {
	return []entry{
		fixed(0x000a, "0008"+chromiumGroups),
		fixed(0x000d, "0012040308040401050308050501080606010201"), // signature_algorithms
		fixed(0x0010, "0003026833"),                               // ALPN: h3
		fixed(0x001b, "020002"),                                   // compress_certificate: brotli
		fixed(0x002b, "020304"),                                   // supported_versions
		fixed(0x002d, "0101"),                                     // psk_key_exchange_modes
		fixed(0x44cd, "0003026833"),                               // ALPS
		fixed(0xca34, "00b8"+ // trust_anchors
			"0582df1302010582df1302060582df13020d0582df13020e0582df13020f0582df1302120582df1302130582df130214"+
			"08839a648c9b2d010708839a648c9b2d010808839a648c9b2d010908839a648c9b2d010a08839a648c9b2d010b"+
			"08839a648c9b2d010c08839a648c9b2d010d08839a648c9b2d011208839a648c9b2d0113"+
			"04d679090104d679090404d679090504d679090604d679090704d679090804d679090a"+
			"04d679090b04d679090c04d679090d04d679090f"),
	}
}

func chromiumParameters() []entry {
	return []entry{
		fixed(0x01, "80007530"),   // max_idle_timeout: 30 s
		fixed(0x03, "45c0"),       // max_udp_payload_size: 1472
		fixed(0x04, "80f00000"),   // initial_max_data: 15 MiB
		fixed(0x05, "80600000"),   // initial_max_stream_data: 6 MiB
		fixed(0x06, "80600000"),   // the same for streams of the other end
		fixed(0x07, "80600000"),   // and for unidirectional ones
		fixed(0x08, "4064"),       // initial_max_streams_bidi: 100
		fixed(0x09, "4067"),       // initial_max_streams_uni: 103
		fixed(0x0f, ""),           // initial_source_connection_id
		fixed(0x20, "80010000"),   // max_datagram_frame_size: 64 KiB
		fixed(0x3128, "4f524947"), // google_connection_options: ORIG
	}
}

// payloads are how long the payload of ECH in jest is, in bytes.
var payloads = [...]int{144, 176, 208, 240}

// chromium writes a ClientHello with what it has in common with another one; without a name the
// site is an address. The payload of ECH has at least least bytes, and is random; an empty part means that it is never so long.
func chromium(random, name, hybrid []byte, least int, r *rand.Rand) (hello []byte, payload part) {
	size := payloads[r.IntN(len(payloads))]
	for _, n := range payloads {
		if size < least {
			size = max(size, n)
		}
	}
	if size < least {
		return nil, part{}
	}
	vector := func(n int, b ...[]byte) (out []byte) {
		for _, x := range b {
			out = append(out, x...)
		}
		head := binary.BigEndian.AppendUint32(nil, uint32(len(out)))
		return append(head[4-n:], out...)
	}
	u16 := func(v int) []byte { return binary.BigEndian.AppendUint16(nil, uint16(v)) }
	ech := append([]byte{0, 0, 1, 0, 1, byte(r.Uint32())}, vector(2, publicKey(r))...) // HKDF-SHA256, AES-128-GCM, an id
	ech = append(ech, vector(2, randomBytes(r, size))...)
	entries := append(chromiumExtensions(),
		entry{extShares, vector(2, u16(groupHybrid), vector(2, hybrid), u16(groupX25519), vector(2, publicKey(r)))},
		entry{extECH, ech},
		entry{0x0039, parameters(r)})
	if len(name) > 0 {
		entries = append(entries, entry{extName, vector(2, []byte{0}, vector(2, name))})
	}
	r.Shuffle(len(entries), func(i, j int) { entries[i], entries[j] = entries[j], entries[i] })
	var exts []byte
	for _, e := range entries {
		exts = append(append(exts, u16(int(e.id))...), vector(2, e.body)...)
		if e.id == extECH {
			payload.end = len(exts)
		}
	}
	body := append([]byte{3, 3}, random...)
	body = append(append(body, 0), vector(2, constant(chromiumCiphers))...) // no session id
	body = append(body, 1, 0)                                               // no compression
	payload.end += 4 + len(body) + 2
	payload.start = payload.end - size
	return append([]byte{1}, vector(3, body, vector(2, exts))...), payload
}

// parameters are the transport parameters.
func parameters(r *rand.Rand) (b []byte) {
	grease := binary.BigEndian.AppendUint32(nil, r.Uint32()&0xf0f0f0f0|0x0a0a0a0a)
	versions := [][]byte{{0, 0, 0, version1}, grease} // the offered ones are in an order that is drawn
	r.Shuffle(2, func(i, j int) { versions[i], versions[j] = versions[j], versions[i] })
	all := append(chromiumParameters(),
		entry{0x11, append(append([]byte{0, 0, 0, version1}, versions[0]...), versions[1]...)},
		entry{31*r.Uint64N((1<<62-28)/31) + 27, randomBytes(r, r.IntN(maxReserved+1))}) // a reserved one (RFC 9000, section 18.1)
	r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	for _, p := range all {
		b = appendVarint(b, p.id)
		b = append(appendVarint(b, uint64(len(p.body))), p.body...)
	}
	return b
}

// maxReserved is the longest reserved parameter, in bytes.
const maxReserved = 15

func randomBytes(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// publicKey is an X25519 key that nobody has the secret of: not any 32 bytes are one.
func publicKey(r *rand.Rand) []byte {
	k, err := ecdh.X25519().NewPrivateKey(randomBytes(r, 32))
	if err != nil {
		panic(err) // any 32 bytes are a secret
	}
	return k.PublicKey().Bytes()
}
