//go:build linux

package e2e

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"busel/internal/front"
	"busel/internal/nginxtest"
	"busel/transport/quic"
)

// bin is where the programs under test are.
var bin string

// programsVariable tells a test that runs in namespaces of its own where they are.
const programsVariable = "BUSEL_E2E_PROGRAMS"

func TestMain(m *testing.M) {
	os.Exit(func() int {
		if plan := os.Getenv(crowdVariable); plan != "" {
			return beCrowd(plan)
		}
		if proxy := os.Getenv(scannerVariable); proxy != "" {
			return beScanner(proxy)
		}
		if bin = os.Getenv(programsVariable); bin != "" {
			return m.Run()
		}
		dir, err := os.MkdirTemp("", "busel-e2e-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		args := []string{"build", "-o", dir + string(filepath.Separator)}
		if os.Getenv("BUSEL_E2E_RACE") != "" {
			args = append(args, "-race")
		}
		build := exec.Command("go", append(args, "../../cmd/client", "../../cmd/relayd", "../../scripts/origin")...)
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "building the programs: %v\n%s", err, out)
			return 1
		}
		bin = dir
		return m.Run()
	}())
}

// need skips the test unless the program is installed.
func need(t *testing.T, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("%s is not installed", p)
		}
	}
}

// program is a running program of ours.
type program struct {
	cmd *exec.Cmd
	dir string
	end func() // ends it, once; the test's end does so too

	killed bool // by kill

	out, err output
}

// output is what a program wrote so far.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// start runs a program until the test ends; it must then end in good order.
func start(t *testing.T, dir, name string, args ...string) *program {
	t.Helper()
	p := launch(t, dir, filepath.Join(bin, name), args...)
	p.end = sync.OnceFunc(func() {
		p.cmd.Process.Signal(syscall.SIGTERM)
		killer := time.AfterFunc(15*time.Second, func() {
			p.cmd.Process.Signal(syscall.SIGQUIT) // a dump of all goroutines tells what hangs
			t.Errorf("%s did not end when asked to", name)
		})
		err := p.cmd.Wait()
		killer.Stop()
		if err != nil && !p.killed {
			t.Errorf("%s ended with %v", name, err)
		}
		if strings.Contains(p.err.String(), "DATA RACE") {
			t.Errorf("data race in %s", name)
		} else if what := tells(p.err.String()); what != "" {
			t.Errorf("the log of %s tells %s", name, what)
		}
		if t.Failed() {
			t.Logf("%s said:\n%s%s", name, &p.out, &p.err)
		}
	})
	t.Cleanup(p.end)
	return p
}

// kill ends the program without a chance to say or write anything.
func (p *program) kill() {
	p.killed = true
	p.cmd.Process.Kill()
	p.end()
}

// launch starts a program; the caller ends it.
func launch(t *testing.T, dir, path string, args ...string) *program {
	t.Helper()
	p := &program{cmd: exec.Command(path, args...), dir: dir}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.err
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return p
}

// startUnjudged is start for a program of which the test looks at the log.
func startUnjudged(t *testing.T, path string, args ...string) *program {
	t.Helper()
	p := launch(t, "", path, args...)
	p.end = sync.OnceFunc(func() {
		p.cmd.Process.Signal(syscall.SIGTERM)
		killer := time.AfterFunc(15*time.Second, func() {
			p.cmd.Process.Kill()
			t.Errorf("%s did not end when asked to", path)
		})
		p.cmd.Wait()
		killer.Stop()
		if t.Failed() {
			t.Logf("%s said:\n%s%s", path, &p.out, &p.err)
		}
	})
	t.Cleanup(p.end)
	return p
}

// command runs one of our programs to its end and returns its standard output.
func command(t *testing.T, stdin, name string, args ...string) string {
	t.Helper()
	out, err := tryCommand(t, stdin, name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// tryCommand is command for one that may fail; the error has what it said.
func tryCommand(t *testing.T, stdin, name string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(bin, name), args...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, &errOut)
	}
	return out.String(), nil
}

// eventually waits until ok holds.
func eventually(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", limit, what)
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		}
	}
}

func freePort(t *testing.T) string { return freePortOn(t, "127.0.0.1") }

// freePortOn finds a port that nobody has, below those that systems give to
// outgoing connections (Linux: 32768 and up): one of those could be taken again
// before the program listens.
func freePortOn(t *testing.T, host string) string {
	t.Helper()
	for range 100 {
		addr := net.JoinHostPort(host, strconv.Itoa(15000+rand.IntN(15000)))
		if ln, err := net.Listen("tcp", addr); err == nil {
			ln.Close()
			return addr
		}
	}
	t.Fatalf("no free port on %s", host)
	return ""
}

func answers(addr string) bool {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// relay is a relayd that runs.
type relay struct {
	*program
	binary string // relayd, or a build of it
	listen string // where relayd listens
	invite string // the first one
}

// relayOptions vary a relay; the zero value has the built-in cover.
type relayOptions struct {
	program   string // relayd, or a build of it in the same place; "" is relayd
	host      string // where it listens; "" is 127.0.0.1
	cover     *nginxtest.Server
	coverPath func(cover string) (address string)  // what leads to the cover
	via       func(listen string) (address string) // what invites say instead of where it listens
	quic      bool                                 // by UDP too, not only by the cover
	ports     string                               // quic-ports
	edit      func(settings string) string         // changes relayd.toml
}

func startRelay(t *testing.T, o relayOptions) *relay {
	t.Helper()
	dir := t.TempDir()
	if o.host == "" {
		o.host = "127.0.0.1"
	}
	r := &relay{binary: cmp.Or(o.program, "relayd"), listen: freePortOn(t, o.host)}
	address := r.listen
	if o.via != nil {
		address = o.via(r.listen)
	}
	args := []string{"init", "-dir", dir, "-address", address}
	if o.cover != nil {
		at := o.cover.Address
		if o.coverPath != nil {
			at = o.coverPath(at)
		}
		args = append(args, "-cover", at, "-cover-name", o.cover.Name)
	} else {
		args = append(args, "-cover", "builtin", "-cover-name", "www.example.org")
	}
	r.invite = strings.TrimSpace(command(t, "", "relayd", args...))
	settings := filepath.Join(dir, "relayd.toml")
	text, err := os.ReadFile(settings)
	if err != nil {
		t.Fatal(err)
	}
	// Origins of tests are on loopback, which the exit denies by default, or elsewhere
	// in a namespace. A cover that is there stays denied: only its own /32 would open it.
	edited := replaceLine(t, string(text), "allow", `allow = ["127.0.0.0/8", "::1/128", "`+elsewhere+`/31"]`)
	edited = replaceLine(t, edited, "listen", fmt.Sprintf("listen = [%q]", r.listen))
	if !o.quic {
		edited = replaceLine(t, edited, "transports", `transports = ["mirror"]`)
	}
	edited = replaceLine(t, edited, "quic-ports", fmt.Sprintf("quic-ports = %q", o.ports))
	if o.edit != nil {
		edited = o.edit(edited)
	}
	if err := os.WriteFile(settings, []byte(edited), 0o600); err != nil {
		t.Fatal(err)
	}
	if !o.quic || o.ports != "" {
		r.invite = strings.TrimSpace(command(t, "", "relayd", "invite", "-dir", dir))
	}
	keepSecret(t, dir)
	r.run(t, dir)
	return r
}

// run starts the relay, again perhaps.
func (r *relay) run(t *testing.T, dir string) {
	t.Helper()
	r.program = start(t, dir, r.binary, "run", "-dir", dir)
	eventually(t, 15*time.Second, "relayd listens", func() bool { return answers(r.listen) })
	eventually(t, 15*time.Second, "relayd takes commands", func() bool {
		_, err := os.Stat(filepath.Join(dir, "control.sock"))
		return err == nil
	})
}

func replaceLine(t *testing.T, text, key, line string) string {
	t.Helper()
	lines := strings.Split(text, "\n")
	for i, l := range lines {
		if strings.HasPrefix(strings.TrimLeft(l, "# "), key+" =") {
			lines[i] = line
			return strings.Join(lines, "\n")
		}
	}
	t.Fatalf("no %s in:\n%s", key, text)
	return ""
}

// relayStatus is what the tests read of `relayd status -json`.
type relayStatus struct {
	Relay struct {
		Sessions      int   `json:"sessions"`
		Carriers      int64 `json:"carriers"`
		Streams       int64 `json:"streams"`
		CarriersTotal int64 `json:"carriers_total"`
		StreamsTotal  int64 `json:"streams_total"`
		FlowsTotal    int64 `json:"flows_total"`
		Refused       int64 `json:"refused_total"`
		BytesUp       int64 `json:"bytes_up_total"`
		BytesDown     int64 `json:"bytes_down_total"`
	} `json:"relay"`
	QUIC []quic.Stats `json:"quic"`
	Next string       `json:"next_relay"`
}

func (r *relay) status(t *testing.T) (s relayStatus) {
	t.Helper()
	decode(t, command(t, "", "relayd", "status", "-dir", r.dir, "-json"), &s)
	return s
}

// client is a client that runs.
type client struct {
	*program
	proxy string // host:port
}

func startClient(t *testing.T, invites ...string) *client {
	t.Helper()
	dir := t.TempDir()
	for _, in := range invites {
		invitation(t, in)
		command(t, in, "client", "add", "-dir", dir, "-")
	}
	return runClient(t, dir, freePort(t))
}

func runClient(t *testing.T, dir, proxy string) *client {
	t.Helper()
	c := &client{proxy: proxy}
	c.program = start(t, dir, "client", "run", "-dir", dir, "-listen", c.proxy)
	eventually(t, 15*time.Second, "client listens", func() bool { return answers(c.proxy) })
	return c
}

func (c *client) status(t *testing.T) (s front.Status) {
	t.Helper()
	decode(t, command(t, "", "client", "status", "-dir", c.dir, "-json"), &s)
	return s
}

func decode(t *testing.T, text string, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), v); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
}

// startOrigin runs scripts/origin and returns its host:port.
func startOrigin(t *testing.T) string { return startOriginOn(t, "127.0.0.1") }

func startOriginOn(t *testing.T, host string) string {
	t.Helper()
	p := start(t, "", "origin", "-listen", net.JoinHostPort(host, "0"))
	var addr string
	eventually(t, 10*time.Second, "origin listens", func() bool {
		addr = strings.TrimSpace(p.out.String())
		return addr != "" && answers(addr)
	})
	return addr
}

// curl runs curl quietly and returns what it wrote.
func curl(t *testing.T, args ...string) []byte {
	t.Helper()
	out, err := tryCurl(t.Context(), args...)
	if err != nil {
		t.Fatalf("curl %s: %v", strings.Join(args, " "), err)
	}
	return out
}

func tryCurl(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "curl", append([]string{"-sS", "--max-time", "120"}, args...)...)
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, bytes.TrimSpace(errOut.Bytes()))
	}
	return out, err
}
