package look

import "testing"

// TestTrustAnchors checks the measured size: 28 sorted ids in 186 bytes.
func TestTrustAnchors(t *testing.T) {
	b := Chromium156().TLS.TrustAnchors
	if len(b) != 186 || int(b[0])<<8|int(b[1]) != len(b)-2 {
		t.Fatalf("list of %d bytes", len(b))
	}
	n, last := 0, ""
	for b = b[2:]; len(b) > 0; n++ {
		id := string(b[1 : 1+b[0]])
		if id <= last {
			t.Fatalf("id %d is not sorted", n)
		}
		last, b = id, b[1+b[0]:]
	}
	if n != 28 {
		t.Fatalf("%d ids", n)
	}
}

// TestCallersOwn checks that a caller may change what it got.
func TestCallersOwn(t *testing.T) {
	a := Chromium156()
	a.TLS.TrustAnchors[0]++
	a.TLS.Ciphers[1]++
	a.HTTP.Navigate[0].Value = ""
	b := Chromium156()
	if b.TLS.TrustAnchors[0] == a.TLS.TrustAnchors[0] || b.TLS.Ciphers[1] == a.TLS.Ciphers[1] || b.HTTP.Navigate[0].Value == "" {
		t.Fatal("looks share memory")
	}
}
