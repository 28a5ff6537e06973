// Command bench measures Busel against what it cannot beat, in one run on one
// machine: direct TCP, a plain SOCKS5 proxy of two hops that splices, and a bare
// forwarder of two hops that seals with AES-GCM. Only the ratios between the
// rows mean anything; everything shares the same processor cores.
//
//	go run ./scripts/bench [-size BYTES] [-rounds N] [-requests N] [-idle N] [-cover nginx|builtin|both] [-least RATIO]
//
// It prints a Markdown table: throughput of one stream down and up (the median
// of the rounds, which visit the ways in turn), its ratio to the plain proxy,
// processor seconds per gigabyte in both hops together, requests of 1 kB per
// second with 32 at a time, each on a connection of its own, the first byte of a
// request when nothing else runs, from the connection to the proxy on, and the
// resident memory of each hop at rest and with idle streams, ten seconds after
// their last byte.
//
// It fails if Busel's download gets less than a fifth of the plain proxy's rate,
// the project's promise; a bare encrypting forwarder on two cores gets a third to
// a half.
//
// The hops and the origin are processes of their own, so that their time can be
// told apart; bench runs itself for those that are not Busel's. Everything is
// on loopback and in a temporary directory, and ends with bench.
package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"busel/internal/nginxtest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(os.Args) > 2 && os.Args[1] == "hop" {
		exit(hop(os.Args[2], os.Args[3:]))
	}
	exit(run(ctx, os.Args[1:], os.Stdout))
}

func exit(err error) {
	switch {
	case err == nil:
		os.Exit(0)
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	}
	fmt.Fprintln(os.Stderr, "bench: error:", err)
	os.Exit(1)
}

// way is a path from the measuring program to the origin.
type way struct {
	name  string
	proxy string     // SOCKS5 address, "" for direct
	hops  []*process // client's side first
	down  []float64  // bytes per second, a round each
	up    []float64
	cpu   [2][]float64 // of down and up: seconds per gigabyte in all hops
	rate  []float64    // requests per second
	first []float64    // seconds to the first byte
	rest  []int64      // resident bytes of each hop
	idle  []int64
}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	size := flags.Int64("size", 512<<20, "`bytes` of one transfer")
	rounds := flags.Int("rounds", 3, "transfers each way")
	requests := flags.Int("requests", 2000, "requests of 1 kB in a round, 0 for none")
	idle := flags.Int("idle", 1000, "idle streams, 0 for none")
	least := flags.Float64("least", 0.20, "fail if a download through Busel gets less than this `ratio` to the plain proxy")
	cover := flags.String("cover", "both", "cover sites to measure: nginx, builtin or both")
	if err := flags.Parse(args); err != nil {
		return err
	}
	covers := []string{*cover}
	switch *cover {
	case "both":
		covers = []string{"nginx", "builtin"}
	case "nginx", "builtin":
	default:
		return fmt.Errorf("-cover %q: want nginx, builtin or both", *cover)
	}
	if *size < 1 || *rounds < 1 || *idle < 0 || *requests < 0 {
		return errors.New("-size and -rounds must be at least 1, -idle and -requests at least 0")
	}

	b := &bench{ctx: ctx}
	defer b.end()
	var err error
	if b.dir, err = os.MkdirTemp("", "busel-bench-"); err != nil {
		return err
	}
	if err := b.startAll(covers); err != nil {
		return err
	}
	for round := range *rounds {
		for i := range b.ways {
			w := b.ways[(i+round)%len(b.ways)]
			fmt.Fprintf(os.Stderr, "round %d: %s\n", round+1, w.name)
			for direction, into := range []*[]float64{&w.down, &w.up} {
				before := cpu(w.hops)
				rate, err := b.transfer(w.proxy, "du"[direction], *size)
				if err != nil {
					return fmt.Errorf("%s: %w", w.name, err)
				}
				*into = append(*into, rate)
				w.cpu[direction] = append(w.cpu[direction], (cpu(w.hops)-before)/(float64(*size)/1e9))
			}
			if *requests > 0 {
				if err := b.requests(w, *requests); err != nil {
					return fmt.Errorf("%s: %w", w.name, err)
				}
			}
		}
	}
	if *idle > 0 {
		for _, w := range b.ways[1:] {
			fmt.Fprintf(os.Stderr, "%d idle streams: %s\n", *idle, w.name)
			if err := b.idleStreams(w, *idle); err != nil {
				return fmt.Errorf("%s: %w", w.name, err)
			}
		}
	}
	table(out, b.ways, *size, *rounds, *idle)
	plain := median(b.ways[1].down)
	for _, w := range b.ways[3:] {
		if ratio := median(w.down) / plain; ratio < *least {
			return fmt.Errorf("%s: a download gets %.2f of the plain proxy's rate, less than %.2f", w.name, ratio, *least)
		}
	}
	return nil
}

// bench holds what runs.
type bench struct {
	ctx    context.Context
	dir    string
	origin string
	all    []*process
	nginx  *nginxtest.Server
	ways   []*way
}

func (b *bench) end() {
	for _, p := range slices.Backward(b.all) {
		p.stop()
	}
	if b.nginx != nil {
		_ = b.nginx.Close() // its directory is temporary
	}
	if b.dir != "" {
		_ = os.RemoveAll(b.dir)
	}
}

func (b *bench) startAll(covers []string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	start := func(args ...string) (*process, string, error) {
		p, err := b.start(self, append([]string{"hop"}, args...)...)
		if err != nil {
			return nil, "", err
		}
		line, err := bufio.NewReader(p.out).ReadString('\n')
		if err != nil {
			return nil, "", fmt.Errorf("%s did not start: %w", args[0], err)
		}
		return p, strings.TrimSpace(line), nil
	}
	if _, b.origin, err = start("origin"); err != nil {
		return err
	}
	b.ways = append(b.ways, &way{name: "direct"})
	for _, kind := range []string{"plain", "sealed"} {
		relay, address, err := start(kind + "-relay")
		if err != nil {
			return err
		}
		client, proxy, err := start(kind+"-client", address)
		if err != nil {
			return err
		}
		name := map[string]string{"plain": "two hops, SOCKS5, splice", "sealed": "two hops, AES-GCM, bare"}[kind]
		b.ways = append(b.ways, &way{name: name, proxy: proxy, hops: []*process{client, relay}})
	}

	fmt.Fprintln(os.Stderr, "building client and relayd")
	build := exec.CommandContext(b.ctx, "go", "build", "-o", b.dir+string(filepath.Separator), "busel/cmd/client", "busel/cmd/relayd")
	if text, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("building: %w\n%s", err, text)
	}
	for _, cover := range covers {
		w, err := b.busel(cover)
		if err != nil {
			return fmt.Errorf("busel with %s: %w", cover, err)
		}
		b.ways = append(b.ways, w)
	}
	return nil
}

var allow = regexp.MustCompile(`(?m)^#* *allow *=.*$`)

// busel starts the real programs as a volunteer and a resident would.
func (b *bench) busel(cover string) (*way, error) {
	site := "builtin"
	if cover == "nginx" {
		if err := nginxtest.Available(); err != nil {
			return nil, err
		}
		var err error
		if b.nginx, err = nginxtest.Start(b.ctx, nginxtest.Config{}); err != nil {
			return nil, err
		}
		site = b.nginx.Address
	}
	relayAddress, proxy, err := freePorts()
	if err != nil {
		return nil, err
	}
	relayDir, clientDir := filepath.Join(b.dir, cover+"-relay"), filepath.Join(b.dir, cover+"-client")
	command := func(name string, args ...string) (string, error) {
		c := exec.CommandContext(b.ctx, filepath.Join(b.dir, name), args...)
		var complaint strings.Builder
		c.Stderr = &complaint
		text, err := c.Output()
		if err != nil {
			return "", fmt.Errorf("%s %s: %w\n%s", name, args[0], err, complaint.String())
		}
		return string(text), nil
	}
	text, err := command("relayd", "init", "-dir", relayDir, "-address", relayAddress, "-cover", site)
	if err != nil {
		return nil, err
	}
	invite, _, _ := strings.Cut(text, "\n")
	// The origin is on loopback, which an exit denies unless told otherwise.
	settings := filepath.Join(relayDir, "relayd.toml")
	toml, err := os.ReadFile(settings)
	if err != nil {
		return nil, err
	}
	if !allow.Match(toml) {
		return nil, errors.New("relayd.toml has no line for exit.allow")
	}
	if err := os.WriteFile(settings, allow.ReplaceAll(toml, []byte(`allow = ["127.0.0.0/8"]`)), 0o600); err != nil {
		return nil, err
	}
	relay, err := b.start(filepath.Join(b.dir, "relayd"), "run", "-dir", relayDir)
	if err != nil {
		return nil, err
	}
	if _, err := command("client", "add", "-dir", clientDir, invite); err != nil {
		return nil, err
	}
	client, err := b.start(filepath.Join(b.dir, "client"), "run", "-dir", clientDir, "-listen", proxy)
	if err != nil {
		return nil, err
	}
	w := &way{name: "Busel, cover " + cover, proxy: proxy, hops: []*process{client, relay}}
	for deadline := time.Now().Add(30 * time.Second); ; {
		_, err := b.transfer(proxy, 'd', 1000)
		if err == nil {
			return w, nil
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("nothing passes: %w\nclient: %s\nrelayd: %s", err, client.complaint(), relay.complaint())
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-b.ctx.Done():
			return nil, b.ctx.Err()
		}
	}
}

// freePorts finds two addresses on loopback that nobody uses, below the ports that the
// system gives to connections.
func freePorts() (a, b string, err error) {
	var found [2]string
	for i, tries := 0, 0; i < len(found); tries++ {
		l, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", 15000+rand.IntN(15000)))
		if err != nil {
			if tries == 100 {
				return "", "", err
			}
			continue
		}
		defer l.Close()
		found[i] = l.Addr().String()
		i++
	}
	return found[0], found[1], nil
}

// process is a program that bench started.
type process struct {
	cmd *exec.Cmd
	out io.Reader // standard output
	log string    // file with standard error
}

func (b *bench) start(path string, args ...string) (*process, error) {
	log, err := os.CreateTemp(b.dir, "log-")
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p := &process{cmd: exec.Command(path, args...), log: log.Name()}
	p.cmd.Stderr = log
	if p.out, err = p.cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	// A hop ends with its standard input, even if bench is killed.
	if args[0] == "hop" {
		if _, err := p.cmd.StdinPipe(); err != nil {
			return nil, err
		}
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	b.all = append(b.all, p)
	return p, nil
}

func (p *process) complaint() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	kill := time.AfterFunc(5*time.Second, func() { _ = p.cmd.Process.Kill() })
	_ = p.cmd.Wait() // its status does not matter any more
	kill.Stop()
}

// cpu is the processor time of the processes so far, in seconds: fields 14 and
// 15 of proc_pid_stat(5) in ticks of 10 ms.
func cpu(all []*process) float64 {
	var ticks float64
	for _, p := range all {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
		if err != nil {
			return 0
		}
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		for _, f := range fields[11:13] {
			n, _ := strconv.ParseFloat(f, 64)
			ticks += n
		}
	}
	return ticks / 100
}

// resident is VmRSS of each process in bytes.
func resident(all []*process) (out []int64) {
	for _, p := range all {
		status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
		_, after, _ := strings.Cut(string(status), "VmRSS:")
		n, _ := strconv.ParseInt(strings.Fields(after + " 0")[0], 10, 64)
		out = append(out, n<<10)
	}
	return out
}

// dial opens a connection to the origin, by way of a SOCKS5 proxy (RFC 1928)
// unless proxy is empty.
func (b *bench) dial(proxy string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(b.ctx, 15*time.Second)
	defer cancel()
	address := proxy
	if address == "" {
		address = b.origin
	}
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp4", address)
	if err != nil || proxy == "" {
		return c, err
	}
	_ = c.SetDeadline(time.Now().Add(15 * time.Second))
	origin, err := netip.ParseAddrPort(b.origin)
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	request := append([]byte{5, 1, 0, 5, 1, 0, 1}, origin.Addr().AsSlice()...)
	request = binary.BigEndian.AppendUint16(request, origin.Port())
	reply := make([]byte, 2+10)
	if _, err = c.Write(request[:3]); err == nil {
		if _, err = io.ReadFull(c, reply[:2]); err == nil {
			if _, err = c.Write(request[3:]); err == nil {
				_, err = io.ReadFull(c, reply[2:])
			}
		}
	}
	if err == nil && reply[3] != 0 {
		err = fmt.Errorf("proxy answers %d", reply[3])
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, c.SetDeadline(time.Time{})
}

// transfer moves size bytes and returns bytes per second. what is 'd' or 'u'.
func (b *bench) transfer(proxy string, what byte, size int64) (float64, error) {
	c, err := b.dial(proxy)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	defer context.AfterFunc(b.ctx, func() { _ = c.Close() })()
	_ = c.SetDeadline(time.Now().Add(10 * time.Minute))
	start := time.Now()
	if _, err := c.Write(binary.BigEndian.AppendUint64([]byte{what}, uint64(size))); err != nil {
		return 0, err
	}
	buf := make([]byte, 256<<10)
	if what == 'u' {
		for left := size; left > 0; {
			n, err := c.Write(buf[:min(left, int64(len(buf)))])
			if err != nil {
				return 0, err
			}
			left -= int64(n)
		}
		// The origin answers when it has everything.
		if _, err := io.ReadFull(c, buf[:1]); err != nil {
			return 0, err
		}
		return float64(size) / time.Since(start).Seconds(), nil
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c}, buf)
	if err != nil {
		return 0, err
	}
	if n != size {
		return 0, fmt.Errorf("%d bytes of %d came", n, size)
	}
	return float64(size) / time.Since(start).Seconds(), nil
}

// Of the small requests: as many at a time as a page with many parts asks for,
// each the size of a small answer in bytes.
const (
	atATime = 32
	answer  = 1000
)

// requests measures n small requests, many at a time, and then first bytes.
func (b *bench) requests(w *way, n int) error {
	var (
		wg   sync.WaitGroup
		left atomic.Int64
		errs = make(chan error, atATime)
	)
	left.Store(int64(n))
	start := time.Now()
	for range atATime {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				if _, err := b.transfer(w.proxy, 'd', answer); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	took := time.Since(start)
	close(errs)
	if err := <-errs; err != nil {
		return err
	}
	w.rate = append(w.rate, float64(n)/took.Seconds())
	var first []float64
	for range 21 {
		start := time.Now()
		if _, err := b.transfer(w.proxy, 'd', 1); err != nil {
			return err
		}
		first = append(first, time.Since(start).Seconds())
	}
	w.first = append(w.first, median(first))
	return nil
}

// settle is how long after the last byte memory is measured, which the promise
// of 45 MiB for 1,000 idle streams names.
const settle = 10 * time.Second

func (b *bench) idleStreams(w *way, n int) error {
	w.rest = resident(w.hops)
	var open []net.Conn
	defer func() {
		for _, c := range open {
			_ = c.Close()
		}
	}()
	data := make([]byte, 1024)
	for range n {
		c, err := b.dial(w.proxy)
		if err != nil {
			return err
		}
		open = append(open, c)
		_ = c.SetDeadline(time.Now().Add(15 * time.Second))
		if _, err := c.Write(binary.BigEndian.AppendUint64([]byte{'i'}, uint64(len(data)))); err != nil {
			return err
		}
		if _, err := io.ReadFull(c, data); err != nil {
			return err
		}
	}
	select {
	case <-time.After(settle):
	case <-b.ctx.Done():
		return b.ctx.Err()
	}
	w.idle = resident(w.hops)
	return nil
}

func median(all []float64) float64 {
	all = slices.Sorted(slices.Values(all))
	return all[len(all)/2]
}

func table(out io.Writer, ways []*way, size int64, rounds, idle int) {
	fmt.Fprintf(out, "One stream of %d MB, median of %d rounds; memory at rest and with %d idle streams (client hop + relay hop).\n\n", size/1e6, rounds, idle)
	fmt.Fprintln(out, "| way | down MB/s | ratio | up MB/s | ratio | CPU s/GB down | up | requests/s | first byte ms | at rest MiB | idle MiB |")
	fmt.Fprintln(out, "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
	base := ways[1] // the plain proxy
	for _, w := range ways {
		down, up := median(w.down), median(w.up)
		fmt.Fprintf(out, "| %s | %.0f | %.2f | %.0f | %.2f | %.2f | %.2f | %s | %s | %s | %s |\n", w.name,
			down/1e6, down/median(base.down), up/1e6, up/median(base.up),
			median(w.cpu[0]), median(w.cpu[1]), number("%.0f", w.rate, 1), number("%.2f", w.first, 1000), mebibytes(w.rest), mebibytes(w.idle))
	}
}

// number is the median times the factor, empty if nothing was measured.
func number(format string, all []float64, factor float64) string {
	if len(all) == 0 {
		return ""
	}
	return fmt.Sprintf(format, median(all)*factor)
}

func mebibytes(all []int64) string {
	var out []string
	for _, n := range all {
		out = append(out, fmt.Sprintf("%.1f", float64(n)/(1<<20)))
	}
	return strings.Join(out, " + ")
}

// join copies both ways until both directions have ended, passing on the end of
// each. copyDown and copyUp do one direction each.
func join(copyDown, copyUp func() error) {
	var wg sync.WaitGroup
	wg.Go(func() { _ = copyUp() }) // an end is an end
	_ = copyDown()
	wg.Wait()
}
