package quic

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	quicgo "github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"busel/obfs/initial"
)

// browserTime is how long a browser may take to start: a busy machine takes a minute.
const browserTime = 2 * time.Minute

// initialsOf notes the Initial datagrams that come to a socket, by sender.
type initialsOf struct {
	net.PacketConn
	mu    sync.Mutex
	from  map[string][][]byte
	order []string // senders, as they came
}

func (c *initialsOf) ReadFrom(b []byte) (int, net.Addr, error) {
	n, addr, err := c.PacketConn.ReadFrom(b)
	if err == nil && initial.Is(b[:n]) {
		c.mu.Lock()
		if c.from[addr.String()] == nil {
			c.order = append(c.order, addr.String())
		}
		c.from[addr.String()] = append(c.from[addr.String()], bytes.Clone(b[:n]))
		c.mu.Unlock()
	}
	return n, addr, err
}

// TestChromiumNow: what docs/QUIC.md says of Chromium is true of the one on this machine. It
// fails when that has moved on.
func TestChromiumNow(t *testing.T) {
	program, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("chromium is not installed")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	_, port, _ := net.SplitHostPort(socket.LocalAddr().String())
	// A name, and so a connection, is visited once; no certificate is for two, or one
	// connection would do for both.
	const names = 6
	host := func(i int) string { return fmt.Sprintf("p%d.look.example:%s", i, port) }
	certificate := func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
		template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(48 * time.Hour), DNSNames: []string{h.ServerName}}
		der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
		return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
	}
	var once sync.Map
	var left sync.WaitGroup
	left.Add(names)
	tap := &initialsOf{PacketConn: socket, from: map[string][][]byte{}}
	tr := &quicgo.Transport{Conn: tap}
	defer tr.Close()
	ln, err := tr.ListenEarly(http3.ConfigureTLSConfig(&tls.Config{GetCertificate: certificate}), &quicgo.Config{})
	if err != nil {
		t.Fatal(err)
	}
	site := &http3.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		for i := range names {
			fmt.Fprintf(w, "<link rel=icon href=data:,><script>fetch('https://%s/',{mode:'no-cors'})</script>", host(i))
		}
		if _, again := once.LoadOrStore(r.Host, true); !again {
			left.Done()
		}
	})}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = site.ServeListener(ln)
	}()
	defer func() {
		site.Close()
		<-served
	}()

	var hosts []string
	for i := range names {
		hosts = append(hosts, host(i))
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	pin, profile := sha256.Sum256(public), t.TempDir()
	cmd := exec.Command(program, "--headless", "--disable-gpu", "--no-sandbox", "--no-first-run", "--disable-background-networking",
		"--disable-sync", "--disable-component-update", "--user-data-dir="+profile, "--no-proxy-server",
		"--enable-quic", "--origin-to-force-quic-on="+strings.Join(hosts, ","),
		"--ignore-certificate-errors-spki-list="+base64.StdEncoding.EncodeToString(pin[:]),
		"--host-resolver-rules=MAP *.look.example 127.0.0.1, MAP * ~NOTFOUND", "--remote-debugging-port=0", "https://"+host(0)+"/")
	cmd.Env = append(os.Environ(), "HOME="+profile)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // the group that it leads
		cmd.Wait()
	}()
	visited := make(chan struct{})
	go func() {
		left.Wait()
		close(visited)
	}()
	select {
	case <-visited:
	case <-time.After(browserTime):
		t.Error("the browser has not visited all names")
	}
	tap.mu.Lock()
	defer tap.mu.Unlock()
	var all [][][]byte
	met := map[string]bool{}
	for _, from := range tap.order {
		// Who comes again to a name is not fresh: the browser knows the round trip, and may have a
		// token and a ticket.
		name := name(t, tap.from[from])
		if !met[name] {
			all = append(all, tap.from[from])
		}
		met[name] = true
	}
	if len(all) < names/2 {
		t.Fatalf("%d connections", len(all))
	}
	factsOf(t, all).compare(t, ofChromium)
}

// name is the one in a connection's ClientHello, "" if that is not whole.
func name(t *testing.T, datagrams [][]byte) string {
	t.Helper()
	id, _ := initial.To(datagrams[0])
	up, _ := initial.KeysOf(id)
	hello := make([]byte, 4096)
	for _, d := range datagrams {
		p, _, err := up.Open(d, -1)
		if err != nil {
			continue // of another connection on the port
		}
		frames, err := initial.Frames(p.Frames)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range frames {
			if f.Offset < uint64(len(hello)) {
				copy(hello[f.Offset:], f.Data)
			}
		}
	}
	return string(regexp.MustCompile(`p[0-9]\.look\.example`).Find(hello))
}
