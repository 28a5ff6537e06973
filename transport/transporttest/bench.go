package transporttest

import (
	"testing"

	"busel/internal/wire"
	"busel/transport"
)

// BenchmarkCarrier moves frames of the greatest length of one stream, four in a
// batch. Both ends must have been written to.
func BenchmarkCarrier(b *testing.B, from, to transport.Carrier) {
	b.Helper()
	f := wire.Frame{Type: wire.Padding, Data: make([]byte, wire.MaxFrame-5)}
	batch := make([]transport.Frame, 4)
	for i := range batch {
		batch[i] = transport.Frame{Lane: 2, Data: f.Append(nil)}
	}
	size := len(batch) * len(batch[0].Data)
	b.SetBytes(int64(size))
	b.ReportAllocs()
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 128<<10)
		for left := b.N * size; left > 0; {
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
}
