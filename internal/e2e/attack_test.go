//go:build linux

package e2e

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"busel/config"
	"busel/internal/nginxtest"
	"busel/internal/wire"
	"busel/transport"
	"busel/transport/mirror"
)

// TestTwoInvites has somebody who holds an invite of the relay and a capture of
// all that another client sends and receives. Nothing he knows attaches to that
// client's session, and what he replays is answered as by the cover.
func TestTwoInvites(t *testing.T) {
	need(t, "curl")
	site := nginxtest.Run(t, nginxtest.Config{RSA: true}) // flights of equal length
	var p *path
	r := startRelay(t, relayOptions{cover: site, via: func(listen string) string {
		p = newPath(t, listen, 0)
		p.record = true
		return p.addr()
	}})
	text := strings.TrimSpace(command(t, "", "relayd", "invite", "-dir", r.dir, "-name", "mallory"))
	victim, mallory := invitation(t, r.invite), invitation(t, text)
	if victim.Token == mallory.Token {
		t.Fatal("both invites have the same token")
	}
	c := startClient(t, r.invite)
	origin := startOrigin(t)
	source := "http://" + origin + "/bytes/40000000"
	want := sha256.Sum256(curl(t, source))
	got := make(chan [sha256.Size]byte, 1)
	go func() {
		page, err := tryCurl(t.Context(), "--limit-rate", "8M", "--proxy", "socks5h://"+c.proxy, source)
		if err != nil {
			t.Errorf("the download: %v", err)
		}
		got <- sha256.Sum256(page)
	}()
	eventually(t, 10*time.Second, "the download runs", func() bool { return c.status(t).BytesDown > 4<<20 })

	up, down := p.taped()[0].tape()
	clientHello, serverHello := message(t, up), message(t, down)
	random, id := clientHello[6:38], clientHello[39:71]
	if clientHello[38] != 32 {
		t.Fatal("the session id is not 32 bytes long")
	}
	hash := sha256.Sum256(append(append([]byte(nil), clientHello...), serverHello...))
	for name, secret := range map[string][32]byte{
		"session id": [32]byte(id), "client random": [32]byte(random), "server random": [32]byte(serverHello[6:38]), "handshake hash": hash,
	} {
		for carrier := range uint32(2) { // the victim's own number, and the next
			if s := say(t, r.listen, mallory, &wire.Hello{Token: mallory.Token, Mode: wire.ModeResume, Secret: secret, Carrier: carrier}); s != wire.StatusUnknownSession {
				t.Errorf("attach with the victim's %s: %v", name, s)
			}
		}
	}

	// What he sends again is to the cover a visitor who cannot finish TLS.
	bare, relayed := replay(t, site.Address, up), replay(t, r.listen, up)
	if bare != relayed {
		t.Errorf("a replay is answered by the cover with\n%s\nby the relay with\n%s", bare, relayed)
	}
	t.Logf("a replay of %d bytes is answered with %s", len(up), relayed)

	if s := c.status(t); !s.Online || s.Streams != 1 {
		t.Errorf("the victim noticed: %+v", s)
	}
	if <-got != want {
		t.Error("the victim's download differs")
	}

	// Even the true secret opens a session only together with its invite. That
	// the last attach works shows that the others fail for the right reason.
	secret := [32]byte{1, 2, 3}
	for _, x := range []struct {
		who  *config.RelayEntry
		mode wire.Mode
		n    uint32
		want wire.Status
	}{
		{victim, wire.ModeNew, 0, wire.StatusOK},
		{mallory, wire.ModeResume, 1, wire.StatusUnknownSession},
		{victim, wire.ModeResume, 2, wire.StatusOK},
	} {
		if s := say(t, r.listen, x.who, &wire.Hello{Token: x.who.Token, Mode: x.mode, Secret: secret, Carrier: x.n}); s != x.want {
			t.Errorf("hello %d: %v, want %v", x.n, s, x.want)
		}
	}
	// A token of his own making is no token.
	forged := mallory.Token
	forged[0]++
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := trySay(ctx, r.listen, mallory, &wire.Hello{Token: forged, Secret: secret}); err == nil {
		t.Error("a forged token was answered")
	}
}

// message returns the handshake message in the first TLS record of a stream.
func message(t *testing.T, stream []byte) []byte {
	t.Helper()
	if len(stream) < 5+71 || stream[0] != 22 {
		t.Fatalf("no handshake record at the start of %d bytes", len(stream))
	}
	record := stream[5:][:int(stream[3])<<8+int(stream[4])]
	return record[:4+int(record[2])<<8+int(record[3])]
}

// say dials the relay as the invite's holder would, and returns the answer.
func say(t *testing.T, address string, e *config.RelayEntry, h *wire.Hello) wire.Status {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	s, err := trySay(ctx, address, e, h)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func trySay(ctx context.Context, address string, e *config.RelayEntry, h *wire.Hello) (wire.Status, error) {
	d, err := mirror.NewDialer(mirror.DialerConfig{PublicKey: e.Key, CoverName: e.CoverName, CertHash: &e.CertHash, Proof: e.Proof})
	if err != nil {
		return 0, err
	}
	defer d.Close()
	carrier, accept, err := d.Dial(ctx, transport.Route{Relay: "r1", Transport: "mirror", Address: address}, h)
	if refused, ok := errors.AsType[*wire.StatusError](err); ok {
		return refused.Status, nil
	}
	if err != nil {
		return 0, err
	}
	return accept.Status, carrier.Close()
}

// replay sends the bytes and describes all that comes back: type and length of
// each record, and how the connection ends.
func replay(t *testing.T, address string, stream []byte) string {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	conn.Write(stream[:min(len(stream), 8<<10)]) // the other end may be gone before the end
	answer, err := io.ReadAll(conn)
	var b strings.Builder
	for len(answer) >= 5 {
		n := 5 + int(answer[3])<<8 + int(answer[4])
		if n > len(answer) {
			break
		}
		fmt.Fprintf(&b, "%d:%d ", answer[0], n)
		answer = answer[n:]
	}
	fmt.Fprintf(&b, "and %d bytes, ", len(answer))
	var nerr net.Error
	switch {
	case err == nil:
		b.WriteString("FIN")
	case errors.As(err, &nerr) && nerr.Timeout():
		b.WriteString("nothing")
	default:
		b.WriteString("RST")
	}
	return b.String()
}
