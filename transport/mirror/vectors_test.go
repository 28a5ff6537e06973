package mirror

import (
	"bytes"
	"crypto/ecdh"
	"encoding/hex"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"busel/internal/wire"
)

// The vectors are those of docs/PROTOCOL.md, written by docs/vectors/gen.py,
// which shares no code with this package. Client and relay are each checked
// against what the second implementation says.
func TestVectors(t *testing.T) {
	raw, err := os.ReadFile("../../docs/vectors/mirror.txt")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for paragraph := range strings.SplitSeq(string(raw), "\n\n") {
		v := carrierVector{}
		for line := range strings.Lines(paragraph) {
			key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
			v[key] = value
		}
		if v["kind"] == "CARRIER" {
			n++
			t.Run("cipher "+v["cipher"], func(t *testing.T) { v.check(t) })
		}
	}
	if n != 2 {
		t.Errorf("%d vectors, want one of each cipher", n)
	}
}

type carrierVector map[string]string

func (v carrierVector) bytes(t *testing.T, key string) []byte {
	t.Helper()
	b, err := hex.DecodeString(v[key])
	if err != nil || len(b) == 0 {
		t.Fatalf("%s %q: %v", key, v[key], err)
	}
	return b
}

func (v carrierVector) number(t *testing.T, key string) int {
	t.Helper()
	n, err := strconv.Atoi(v[key])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (v carrierVector) private(t *testing.T, key string) *ecdh.PrivateKey {
	t.Helper()
	k, err := ecdh.X25519().NewPrivateKey(v.bytes(t, key))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (v carrierVector) check(t *testing.T) {
	same := func(key string, got []byte) {
		t.Helper()
		if want := v.bytes(t, key); !bytes.Equal(got, want) {
			t.Errorf("%s is\n%x, want\n%x", key, got, want)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	s, e := v.private(t, "relay_private"), v.private(t, "client_private")
	same("relay_public", s.PublicKey().Bytes())
	same("client_public", e.PublicKey().Bytes())
	es, err := e.ECDH(s.PublicKey())
	must(err)
	same("es", es)
	clientRandom, serverRandom := [32]byte(v.bytes(t, "client_random")), [32]byte(v.bytes(t, "server_random"))
	message := v.bytes(t, "client_hello")
	seen, ok := parseClientHello(message)
	if !ok || seen.random != clientRandom || seen.share != [32]byte(e.PublicKey().Bytes()) {
		t.Fatalf("client_hello is read as %+v, %v", seen, ok)
	}
	same("session_id", seen.sessionID[:])
	same("session_id", sessionID(clientRandom, es, seen.bound(message)...))
	sec := newSecrets(clientRandom, serverRandom, es)
	same("k", sec.k)
	same("marker_key", expand(sec.k, labelMarker, 16))
	same("mask", expand(sec.k, labelMask, 32))
	same("proof_key", expand(sec.k, labelProof, 32))
	for dir := range byte(3) {
		for _, n := range []uint64{0, 1, 255, 1<<24 - 1} {
			mark := sec.mark(dir, n)
			same(fmt.Sprintf("marker_%d_%d", dir, n), mark[:])
		}
	}

	proof := v.bytes(t, "proof")
	plain, err := sec.proofAEAD().Open(nil, make([]byte, 12), proof[prefixLen:], proof[:prefixLen])
	must(err)
	same("proof_plain", plain)

	// The client's first record, as it is sent and as it is read.
	relay := [32]byte(v.bytes(t, "relay_public"))
	client, err := sec.initiator(e, relay)
	must(err)
	first, _, _, err := client.WriteMessage(nil, pack(v.bytes(t, "hello"), v.number(t, "hello_size")))
	must(err)
	same("client_public", first[:32])
	same("client_record_0", append(appendPrefix(nil, sec.mark(dirClient, 0), len(first)-32), first[32:]...))
	server, err := sec.responder(s)
	must(err)
	plain, _, _, err = server.ReadMessage(nil, append(v.bytes(t, "client_public"), v.bytes(t, "client_record_0")[prefixLen:]...))
	must(err)
	said, err := unpack(plain)
	must(err)
	same("hello", said)
	parsed, err := wire.ParseHello(said)
	must(err)

	// The relay's first record. Its ephemeral key is drawn by Noise, so it is
	// read by the client only.
	second := v.bytes(t, "relay_record_0")[prefixLen:]
	sec.maskE(second[:32])
	plain, up, down, err := client.ReadMessage(nil, second)
	must(err)
	said, err = unpack(plain)
	must(err)
	same("accept", said)
	if want := 2 + len(said); len(plain) != max(want, v.number(t, "accept_size")) {
		t.Errorf("payload of the reply has %d bytes", len(plain))
	}
	upKey, downKey := up.UnsafeKey(), down.UnsafeKey()
	same("key_client_to_relay", upKey[:])
	same("key_relay_to_client", downKey[:])

	// Later records.
	if int(parsed.Cipher) != v.number(t, "cipher") {
		t.Errorf("cipher %d", parsed.Cipher)
	}
	for name, side := range map[string]struct {
		dir byte
		key [keyLen]byte
	}{"client": {dirClient, upKey}, "relay": {dirRelay, downKey}} {
		aead, err := newAEAD(parsed.Cipher, side.key)
		must(err)
		out := &lane{s: sec, dir: side.dir, n: 1, aead: aead}
		in := &lane{s: sec, dir: side.dir, n: 1, aead: aead}
		for n := 1; n <= 3; n++ {
			plainKey, recordKey := fmt.Sprintf("%s_plain_%d", name, n), fmt.Sprintf("%s_record_%d", name, n)
			sealed, err := out.seal(nil, v.bytes(t, plainKey))
			must(err)
			same(recordKey, sealed)
			opened := make([]byte, maxPlain)
			size, err := in.open(opened, v.bytes(t, recordKey))
			must(err)
			same(plainKey, opened[:size])
		}
	}
}
