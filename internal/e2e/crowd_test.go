//go:build linux

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// crowdVariable makes this test binary a crowd of strangers, which the kernel lets run
// only when nobody else wants to (SCHED_IDLE). Its value is a crowdPlan.
const crowdVariable = "BUSEL_E2E_CROWD"

// crowdPlan is what a crowd does until its standard input ends.
type crowdPlan struct {
	Address string   // of the server
	Name    string   // of its site
	Kinds   []string // of strangers, see strangerKinds
	Size    int      // strangers at a time; each one that has ended is followed by another
}

// crowdReport is what it has to tell then.
type crowdReport struct {
	Made int                       // connections
	Ends map[string]map[string]int // how many of a kind the server ended in which way
}

// strangerKinds are what there is of them. Each gets a connection and says what it has to; how the
// server ends it is watched, unless the connection is left at once.
var strangerKinds = map[string]func(s *oneStranger){
	// Those who take their time.
	"slow hello":   func(s *oneStranger) { s.slowly(s.hello()) },
	"slow request": func(s *oneStranger) { s.handshake("http/1.1"); s.slowly(slowRequest) },
	"slow head":    func(s *oneStranger) { s.handshake("h2"); s.slowly(slowHead) },
	// Those who come in numbers.
	"connect and close": func(s *oneStranger) { s.leave(false) },
	"connect and reset": func(s *oneStranger) { s.leave(true) },
	"handshake and go":  func(s *oneStranger) { s.handshake("h2"); s.leave(false) },
	"hello and reset":   func(s *oneStranger) { s.write(s.hello()); s.leave(true) },
	// Those whose records are large or many.
	"records without end": func(s *oneStranger) {
		record := append([]byte{22, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff}, make([]byte, 16<<10-4)...)
		for s.write(record) == nil {
			copy(record[5:], "\x00\x00\x00\x00") // the message goes on
		}
	},
	"hello of 16 MB":   func(s *oneStranger) { s.write([]byte{22, 3, 1, 0, 4, 1, 0xff, 0xff, 0xff}) },
	"oversized record": func(s *oneStranger) { s.write(append([]byte{22, 3, 1, 0x48, 1}, make([]byte, 18433)...)) },
	"records of a byte": func(s *oneStranger) {
		hello := s.hello()
		var cut []byte
		for _, b := range hello[5:] {
			cut = append(cut, 22, 3, 1, 0, 1, b)
		}
		s.write(cut)
	},
	"data instead of a hello": func(s *oneStranger) { s.write(append([]byte{23, 3, 3, 0x41, 0}, make([]byte, 16640)...)) },
	// Those who want a server to remember much of little.
	"many fields":   func(s *oneStranger) { s.handshake("h2"); s.write(manyFields) },
	"many requests": func(s *oneStranger) { s.handshake("h2"); s.write(manyRequests()); <-s.ctx.Done() },
	"a huge frame":  func(s *oneStranger) { s.handshake("h2"); s.write(hugeFrame) },
	"a long header": func(s *oneStranger) { s.handshake("http/1.1"); s.write(longHeader) },
	"tiny fields":   func(s *oneStranger) { s.handshake("http/1.1"); s.write(tinyFields) },
	"a body":        func(s *oneStranger) { s.handshake("h2"); s.write(body); <-s.ctx.Done() },
	"many pings":    func(s *oneStranger) { s.handshake("h2"); s.write(manyPings()); <-s.ctx.Done() },
	"half a hello of 60 kB": func(s *oneStranger) {
		s.write([]byte{22, 3, 1, 0x40, 0, 1, 0, 0xf0, 0})
		for range 3 {
			s.write(append(make([]byte, 16<<10-4), 22, 3, 1, 0x40, 0, 0, 0, 0, 0))
		}
	},
	// Those who stop half-way.
	"silence": func(*oneStranger) {},
	"hello":   func(s *oneStranger) { s.write(s.hello()) },
	"half a hello": func(s *oneStranger) {
		hello := s.hello()
		s.write(hello[:len(hello)/2])
	},
	"half a request": func(s *oneStranger) {
		if s.handshake("http/1.1"); s.secure != nil {
			s.page()
			io.ReadAtLeast(s.secure, make([]byte, 16<<10), 500)
			s.write([]byte("GET / HT"))
		}
	},
	// Those who stay.
	"handshake":   func(s *oneStranger) { s.handshake("http/1.1") },
	"a page":      func(s *oneStranger) { s.handshake("http/1.1"); s.page() },
	"HTTP/2":      func(s *oneStranger) { s.handshake("h2"); s.write([]byte(preface)) },
	"no appetite": func(s *oneStranger) { s.handshake("http/1.1"); s.download() },
}

var slowRequest = []byte("GET / HTTP/1.1\r\nX: " + strings.Repeat("x", 1<<20))

// preface begins HTTP/2 with empty SETTINGS.
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"

// slowHead is a HEADERS frame of 16 kB that comes to no end.
var slowHead = append([]byte(preface+"\x00\x40\x00\x01\x04\x00\x00\x00\x01"), make([]byte, 16<<10)...)

// frame is one of HTTP/2.
func frame(kind, flags byte, stream uint32, payload []byte) []byte {
	n := len(payload)
	head := binary.BigEndian.AppendUint32([]byte{byte(n >> 16), byte(n >> 8), byte(n), kind, flags}, stream)
	return append(head, payload...)
}

// manyFields is a header block of 31,000 fields that comes to no end: HEADERS and
// CONTINUATIONs with "x:" again and again.
var manyFields = func() []byte {
	fields := bytes.Repeat([]byte("\x00\x01x\x00"), 4000)
	b := append([]byte(preface), frame(1, 0, 1, fields)...)
	for range 7 {
		b = append(b, frame(9, 0, 1, fields[:15_500])...)
	}
	return b
}()

// manyRequests are 250 for the first page, each with a header of 12 kB, from a visitor
// who lets none of the answers come.
func manyRequests() []byte {
	b := []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
	b = append(b, frame(4, 0, 0, []byte{0, 4, 0, 0, 0, 0})...) // INITIAL_WINDOW_SIZE 0
	// GET https / to x, and a field x of 12,000 bytes.
	block := append([]byte{0x82, 0x87, 0x84, 0x41, 1, 'x', 0, 1, 'x', 0x7f, 0xe1, 0x5c}, bytes.Repeat([]byte("y"), 12_000)...)
	for i := range uint32(250) {
		b = append(b, frame(1, 5, 2*i+1, block)...)
	}
	return b
}

// hugeFrame is of a type that nobody knows, 1 MiB long.
var hugeFrame = append([]byte(preface), frame(0xfa, 0, 0, make([]byte, 1<<20-1))...)

// longHeader is one of 1 MB without an end.
var longHeader = []byte("GET / HTTP/1.1\r\nX: " + strings.Repeat("x", 1_000_000))

// tinyFields is a header of 200,000 fields without an end.
var tinyFields = func() []byte {
	b := []byte("GET / HTTP/1.1\r\n")
	for i := range 200_000 {
		b = fmt.Appendf(b, "%03x:\r\n", i%0x1000)
	}
	return b
}()

// body is a request that lets no answer come, and as much of its body as may be sent.
var body = func() []byte {
	b := []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
	b = append(b, frame(4, 0, 0, []byte{0, 4, 0, 0, 0, 0})...)               // INITIAL_WINDOW_SIZE 0
	b = append(b, frame(1, 4, 1, []byte{0x83, 0x87, 0x84, 0x41, 1, 'x'})...) // POST https / to x
	for range 63 {
		b = append(b, frame(0, 0, 1, make([]byte, 16<<10))...)
	}
	return b
}()

// manyPings are 9,000 questions behind a megabyte of answers that nobody reads.
func manyPings() []byte {
	b := []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
	b = append(b, frame(4, 0, 0, []byte{0, 4, 0x7f, 0xff, 0xff, 0xff})...) // INITIAL_WINDOW_SIZE
	b = append(b, frame(8, 0, 0, []byte{0x7f, 0, 0, 0})...)                // WINDOW_UPDATE
	for i := range uint32(200) {
		b = append(b, frame(1, 5, 2*i+1, []byte{0x82, 0x87, 0x84, 0x41, 1, 'x'})...) // GET https / from x
	}
	for range 9000 {
		b = append(b, frame(6, 0, 0, make([]byte, 8))...)
	}
	return b
}

// slowStep is the time between two bytes of who takes his time.
const slowStep = 200 * time.Millisecond

// oneStranger is a stranger's connection.
type oneStranger struct {
	ctx    context.Context
	name   string
	conn   *net.TCPConn
	secure *tls.Conn // after a handshake
	said   []string  // by the server, in the end
	left   bool      // by himself
}

// write says b, inside TLS after the handshake.
func (s *oneStranger) write(b []byte) (err error) {
	if s.secure != nil {
		_, err = s.secure.Write(b)
	} else {
		_, err = s.conn.Write(b)
	}
	return err
}

func (s *oneStranger) config(protocol string) *tls.Config {
	return &tls.Config{ServerName: s.name, InsecureSkipVerify: true, NextProtos: []string{protocol}, CurvePreferences: []tls.CurveID{tls.X25519}}
}

func (s *oneStranger) handshake(protocol string) {
	c := tls.Client(s.conn, s.config(protocol))
	if c.HandshakeContext(s.ctx) == nil {
		s.secure = c
	}
}

// hello is a ClientHello in its record.
func (s *oneStranger) hello() []byte {
	var first firstWrite
	tls.Client(&first, s.config("h2")).HandshakeContext(context.Background())
	return first.b
}

// firstWrite is a connection that keeps what is written first.
type firstWrite struct {
	net.Conn
	b []byte
}

func (f *firstWrite) Write(b []byte) (int, error) {
	f.b = slices.Clone(b)
	return 0, io.ErrClosedPipe
}
func (*firstWrite) Close() error                     { return nil }
func (*firstWrite) SetWriteDeadline(time.Time) error { return nil }

// slowly says b byte by byte, for as long as the server listens.
func (s *oneStranger) slowly(b []byte) {
	w := io.Writer(s.conn)
	if s.secure != nil {
		w = s.secure
	}
	ended := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		defer close(ended)
		if s.secure != nil {
			s.read()
			return
		}
		if raw, err := s.conn.SyscallConn(); err == nil {
			raw.Read(func(fd uintptr) bool {
				_, _, err := syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
				return err != syscall.EAGAIN
			})
		}
	})
	for i := range b {
		select {
		case <-time.After(slowStep):
		case <-ended:
			return
		case <-s.ctx.Done():
			s.conn.Close()
			return
		}
		if _, err := w.Write(b[i : i+1]); err != nil {
			return
		}
	}
}

func (s *oneStranger) page() {
	s.write([]byte("GET / HTTP/1.1\r\nHost: " + s.name + "\r\n\r\n"))
}

// download asks for much and reads nothing of it.
func (s *oneStranger) download() {
	s.conn.SetReadBuffer(4 << 10)
	s.write([]byte("GET /large.bin HTTP/1.1\r\nHost: " + s.name + "\r\n\r\n"))
	<-s.ctx.Done()
}

// leave ends the connection.
func (s *oneStranger) leave(reset bool) {
	s.left = true
	if reset {
		s.conn.SetLinger(0)
	}
	s.conn.Close()
}

// read reads all that is inside TLS.
func (s *oneStranger) read() {
	switch _, err := io.Copy(io.Discard, s.secure); {
	case err == nil:
		s.said = append(s.said, "close_notify")
	case errors.Is(err, io.ErrUnexpectedEOF):
	default:
		if alert, ok := errors.AsType[*net.OpError](err); ok && alert.Op == "remote error" {
			s.said = append(s.said, alert.Err.Error())
		}
	}
	s.secure = nil
}

// end reads until the server has ended the connection, and says how.
func (s *oneStranger) end() string {
	if s.secure != nil {
		s.read()
	}
	said := s.said
	b, err := io.ReadAll(s.conn)
	for len(b) >= 5 {
		n := min(len(b), 5+int(b[3])<<8+int(b[4]))
		if b[0] == 21 && n == 7 {
			said = append(said, fmt.Sprintf("alert %d", b[6]))
		}
		b = b[n:]
	}
	if err == nil {
		said = append(said, "FIN")
	} else {
		said = append(said, "RST")
	}
	return strings.Join(said, ", ")
}

// beCrowd is the other program.
func beCrowd(text string) int {
	var plan crowdPlan
	if err := json.Unmarshal([]byte(text), &plan); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	ctx, cancel := context.WithCancel(context.Background())
	report := crowdReport{Ends: map[string]map[string]int{}}
	var mu sync.Mutex
	var made, here atomic.Int64
	one := func(i int, kind string) {
		from := &net.TCPAddr{IP: net.IPv4(127, 1, byte(i/200), byte(1+i%200))} // ports for all
		c, err := (&net.Dialer{LocalAddr: from, KeepAlive: -1}).DialContext(ctx, "tcp", plan.Address)
		if err != nil {
			if ctx.Err() == nil {
				mu.Lock()
				defer mu.Unlock()
				why := err.Error()
				if op, ok := errors.AsType[*net.OpError](err); ok {
					why = op.Err.Error()
				}
				count(report.Ends, kind, why)
			}
			return
		}
		if made.Add(1); here.Add(1) == int64(plan.Size) {
			fmt.Println("here")
		}
		s := &oneStranger{ctx: ctx, name: plan.Name, conn: c.(*net.TCPConn)}
		defer c.Close()
		stop := context.AfterFunc(ctx, func() {
			s.conn.SetLinger(0)
			s.conn.Close()
		})
		defer stop()
		strangerKinds[kind](s)
		if s.left {
			return
		}
		if how := s.end(); ctx.Err() == nil {
			mu.Lock()
			defer mu.Unlock()
			count(report.Ends, kind, how)
		}
	}
	var wg sync.WaitGroup
	for i := range plan.Size {
		wg.Go(func() {
			for ctx.Err() == nil {
				one(i, plan.Kinds[i%len(plan.Kinds)])
			}
		})
		if i%50 == 49 {
			<-time.After(5 * time.Millisecond) // backlogs are not what is tried
		}
	}
	io.Copy(io.Discard, os.Stdin)
	cancel()
	wg.Wait()
	report.Made = int(made.Load())
	if err := json.NewEncoder(os.Stdout).Encode(report); err != nil {
		return 1
	}
	return 0
}

func count(all map[string]map[string]int, kind, how string) {
	if all[kind] == nil {
		all[kind] = map[string]int{}
	}
	all[kind][how]++
}

// usual are the ways in which the server ended a kind, the most frequent first, but for
// such as were rare.
func (r *crowdReport) usual(kind string) []string {
	sum := 0
	for _, n := range r.Ends[kind] {
		sum += n
	}
	var ways []string
	for how, n := range r.Ends[kind] {
		if n*20 > sum {
			ways = append(ways, how)
		}
	}
	slices.SortFunc(ways, func(a, b string) int { return r.Ends[kind][b] - r.Ends[kind][a] })
	return ways
}

func (r *crowdReport) String() string {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%d connections", r.Made)
	for _, kind := range slices.Sorted(maps.Keys(r.Ends)) {
		fmt.Fprintf(&b, "; %s: %v", kind, r.Ends[kind])
	}
	return b.String()
}

// outside is a crowd at work.
type outside struct {
	cmd  *exec.Cmd
	in   io.Closer
	out  *bufio.Reader
	here chan error // says when all are there
	err  bytes.Buffer
}

func startCrowd(t *testing.T, plan crowdPlan) *outside {
	t.Helper()
	text, err := json.Marshal(plan)
	if err != nil {
		t.Fatal(err)
	}
	c := &outside{cmd: exec.Command("chrt", "--idle", "0", os.Args[0]), here: make(chan error, 1)}
	c.cmd.Env = append(os.Environ(), crowdVariable+"="+string(text), "GOMAXPROCS=1")
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	c.cmd.Stderr = &c.err
	in, err := c.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.in, c.out = in, bufio.NewReader(out)
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_, err := c.out.ReadString('\n')
		c.here <- err
	}()
	return c
}

// all waits until all strangers are there.
func (c *outside) all(t *testing.T) {
	t.Helper()
	select {
	case err := <-c.here:
		c.here <- err
		if err != nil {
			t.Fatalf("the crowd: %v\n%s", err, &c.err)
		}
	case <-time.After(3 * time.Minute):
		t.Fatal("the crowd does not get together")
	}
}

// end ends the crowd and returns what it saw.
func (c *outside) end(t *testing.T) (r crowdReport) {
	t.Helper()
	c.all(t)
	c.in.Close()
	err := json.NewDecoder(c.out).Decode(&r)
	if err := errors.Join(err, c.cmd.Wait()); err != nil {
		t.Fatalf("the crowd: %v\n%s", err, &c.err)
	}
	return r
}
