package front_test

import (
	"io"
	"net"
	"testing"

	"busel/internal/flow"
	"busel/internal/front"
)

// BenchmarkDownload moves 16 MiB an operation through front over exit, which is
// what a plain splicing proxy does.
func BenchmarkDownload(b *testing.B) {
	const size = 16 << 20
	chunk := make([]byte, 64<<10)
	site := serveTCP(b, "127.0.0.1:0", func(c *net.TCPConn) {
		for {
			if _, err := c.Write(chunk); err != nil {
				return
			}
		}
	})
	f := start(b, front.Config{})
	c, err := net.Dial("tcp", f.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	send(b, c, connectRequest(flow.AddrFrom(site))...)
	expect(b, c, append([]byte{5, 0}, reply(flow.Succeeded)...)...)
	b.SetBytes(size)
	for b.Loop() {
		if _, err := io.CopyN(io.Discard, c, size); err != nil {
			b.Fatal(err)
		}
	}
}
