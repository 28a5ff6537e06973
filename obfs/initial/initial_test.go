package initial

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The packets of RFC 9001, appendix A.2 and A.3: the client's by its beginning and end.
func TestRFC9001(t *testing.T) {
	client, server := KeysOf(unhex(t, "8394c8f03e515708"))
	crypto := unhex(t, `060040f1010000ed0303ebf8fa56f12939b9584a3896472ec40bb863cfd3e868
		04fe3a47f06a2b69484c00000413011302010000c000000010000e00000b6578616d706c652e636f6dff01000100
		000a00080006001d0017001800100007000504616c706e000500050100000000003300260024001d00209370b2c9
		caa47fbabaf4559fedba753de171fa71f50f1ce15d43e994ec74d748002b0003020304000d0010000e0403050306
		030203080408050806002d00020101001c00024001003900320408ffffffffffffffff05048000ffff07048000ff
		ff0801100104800075300901100f088394c8f03e51570806048000ffff`)
	p := Packet{To: unhex(t, "8394c8f03e515708"), Number: 2, NumberLen: 4, Frames: append(crypto, make([]byte, 1162-len(crypto))...)}
	got := client.Seal(nil, &p)
	begin := unhex(t, "c000000001088394c8f03e5157080000449e7b9aec34d1b1c98dd7689fb8ec11d242b123dc9bd8bab936b47d92ec356c")
	end := unhex(t, "e221af44860018ab0856972e194cd934")
	if len(got) != 1200 || !bytes.HasPrefix(got, begin) || !bytes.HasSuffix(got, end) {
		t.Errorf("the client's packet is %d bytes, %x", len(got), got)
	}
	if p.Overhead() != len(got)-len(p.Frames) {
		t.Errorf("its overhead is %d", p.Overhead())
	}

	sealed := unhex(t, `cf000000010008f067a5502a4262b5004075c0d95a482cd0991cd25b0aac406a
		5816b6394100f37a1c69797554780bb38cc5a99f5ede4cf73c3ec2493a1839b3dbcba3f6ea46c5b7684df3548e7d
		deb9c3bf9c73cc3f3bded74b562bfb19fb84022f8ef4cdd93795d77d06edbb7aaf2f58891850abbdca3d20398c27
		6456cbc42158407dd074ee`)
	want := unhex(t, `02000000000600405a020000560303eefce7f7b37ba1d1632e96677825ddf739
		88cfc79825df566dc5430b9a045a1200130100002e00330024001d00209d3c940d89690b84d08a60993c144eca68
		4d1081287c834d5311bcf32bb9da1a002b00020304`)
	p, rest, err := server.Open(append(sealed, "next"...), -1)
	if err != nil {
		t.Fatal(err)
	}
	if string(rest) != "next" || len(p.To) != 0 || !bytes.Equal(p.From, unhex(t, "f067a5502a4262b5")) || p.Number != 1 || p.NumberLen != 2 || !bytes.Equal(p.Frames, want) {
		t.Errorf("the server's packet is %+v, then %q", p, rest)
	}
	if again := server.Seal(nil, &p); !bytes.Equal(again, sealed) {
		t.Errorf("sealed again it is %x", again)
	}
	for i := range sealed {
		bad := bytes.Clone(sealed)
		bad[i] ^= 0x10
		if _, _, err := server.Open(bad, -1); err == nil {
			t.Errorf("with byte %d changed it opens", i)
		}
	}
	for n := range sealed {
		if _, _, err := server.Open(sealed[:n], -1); err != ErrNotInitial {
			t.Errorf("its first %d bytes give %v", n, err)
		}
	}
}
