package picture

import (
	"testing"
)

// BenchmarkRead is the cost of every picture of the gallery.
func BenchmarkRead(b *testing.B) {
	for _, e := range gallery(b) {
		b.Run(e.name, func(b *testing.B) {
			b.SetBytes(int64(len(e.data)))
			for b.Loop() {
				if _, err := Read(b.Context(), e.data); (err == nil) != (e.want != nil) {
					b.Fatal(err)
				}
			}
		})
	}
}
