package quic

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"

	quicgo "github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// Ask asks a site for its first page over HTTP/3, as any visitor may, and returns nil
// if it answers with whatever status. Its certificate is not judged. conn is not
// closed.
func Ask(ctx context.Context, conn net.PacketConn, to netip.AddrPort, name string) error {
	udp := &quicgo.Transport{Conn: conn}
	defer udp.Close()
	client := &http3.Transport{
		TLSClientConfig: &tls.Config{ServerName: name, InsecureSkipVerify: true},
		Logger:          slog.New(slog.DiscardHandler),
		Dial: func(ctx context.Context, _ string, t *tls.Config, c *quicgo.Config) (*quicgo.Conn, error) {
			return udp.Dial(ctx, net.UDPAddrFromAddrPort(to), t, c)
		},
	}
	defer client.Close()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("https://%s/", hostOf(name)), nil)
	if err != nil {
		return err
	}
	answer, err := client.RoundTrip(r)
	if err != nil {
		return bare(err)
	}
	return answer.Body.Close()
}
