package mirror

import (
	"testing"

	"busel/internal/wire"
	"busel/transport/transporttest"
)

// BenchmarkCarrier moves frames of the greatest length, four in a batch, over
// loopback, with a cover of Go's own server.
func BenchmarkCarrier(b *testing.B) {
	for name, cipher := range map[string]wire.Cipher{"aes": wire.AES256GCM, "chacha": wire.ChaCha20Poly1305} {
		for _, dir := range []string{"up", "down"} {
			b.Run(name+"/"+dir, func(b *testing.B) {
				r := startRelay(b, goSite(b, nil), nil)
				carriers, _ := r.answer(b, okAccept())
				hello := testHello()
				hello.Cipher = cipher
				client, _, err := r.dialer(b, nil).Dial(testContext(b), r.route(), hello)
				if err != nil {
					b.Fatal(err)
				}
				from, to := client, <-carriers
				send(b, from, to, 1)
				if dir == "down" {
					from, to = to, from
				}
				transporttest.BenchmarkCarrier(b, from, to)
				client.Close()
			})
		}
	}
}

// BenchmarkDial makes carriers: a handshake with the cover, a hello and a reply.
func BenchmarkDial(b *testing.B) {
	r := startRelay(b, goSite(b, nil), nil)
	d := r.dialer(b, nil)
	for b.Loop() {
		carriers, _ := r.answer(b, okAccept())
		c, _, err := d.Dial(testContext(b), r.route(), testHello())
		if err != nil {
			b.Fatal(err)
		}
		(<-carriers).Close()
		c.Close()
	}
}
