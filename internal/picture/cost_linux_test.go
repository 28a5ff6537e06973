//go:build !race

package picture

import (
	"bytes"
	"image"
	"syscall"
	"testing"
	"time"
)

// TestCost holds reading to a multiple of what decoding a JPEG costs, in processor time,
// so that neither a slow nor a busy machine matters: what holds nothing is given
// up soon after it was looked at. Decoding 36 megapixels takes 0.3 to 0.8 s, and the
// user is to wait for less than 2.
func TestCost(t *testing.T) {
	const most = 4
	var decode time.Duration // of the first
	for _, e := range []exhibit{
		{name: "noise, JPEG", data: asJPEG(t, noise(), 30)},
		{name: "noise, JPEG of high quality", data: asJPEG(t, noise(), 75)},
		{name: "noise, PNG of one bit", data: asPNG(t, bitNoise())},
	} {
		if decode == 0 {
			decode = cost(t, func() { image.Decode(bytes.NewReader(e.data)) })
		}
		read := cost(t, func() { Read(t.Context(), e.data) })
		if read > most*decode {
			t.Errorf("%s: reading takes %.1f times what decoding does", e.name, float64(read)/float64(decode))
		}
		t.Logf("%-30s decoding %v, reading %v of processor time", e.name, decode, read)
	}
}

// cost is the processor time that do takes.
func cost(t *testing.T, do func()) time.Duration {
	t.Helper()
	used := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			t.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	before := used()
	do()
	return used() - before
}
