package mirror

import (
	"testing"

	"busel/internal/wire"
	"busel/transport"
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
				f := wire.Frame{Type: wire.Padding, Data: make([]byte, wire.MaxFrame-5)}
				data := f.Append(nil)
				batch := []transport.Frame{{Data: data}, {Data: data}, {Data: data}, {Data: data}}
				b.SetBytes(int64(len(batch) * len(data)))
				b.ReportAllocs()
				done := make(chan struct{})
				go func() {
					defer close(done)
					buf := make([]byte, 128<<10)
					for left := b.N * len(batch) * len(data); left > 0; {
						n, err := to.ReadFrames(buf)
						if err != nil {
							b.Error(err)
							return
						}
						left -= n
					}
				}()
				b.ResetTimer()
				for range b.N {
					if err := from.WriteFrames(batch); err != nil {
						b.Fatal(err)
					}
				}
				<-done
				b.StopTimer()
				client.Close()
			})
		}
	}
}
