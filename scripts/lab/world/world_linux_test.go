package world_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"busel/internal/nginxtest"
	"busel/scripts/lab/censor"
	"busel/scripts/lab/netns"
	"busel/scripts/lab/world"
)

var (
	relay    = netip.MustParseAddr("192.0.2.10")
	site     = netip.MustParseAddr("198.51.100.11")
	resolver = netip.MustParseAddr("198.51.100.53")
)

func config() world.Config {
	return world.Config{
		Abroad:   []netip.Addr{relay, site, resolver},
		Resolver: resolver,
		Names:    world.Names{"site.test": {site, world.Twin(site)}},
	}
}

func cover(ctx context.Context, w *world.World) (*nginxtest.Server, error) {
	return nginxtest.Start(ctx, nginxtest.Config{
		Host: w.Abroad, Parent: w.Dir, Name: "site.test",
		Address: netip.AddrPortFrom(site, 443).String(), Also: []string{netip.AddrPortFrom(world.Twin(site), 443).String()},
		Plain: netip.AddrPortFrom(site, 80).String(),
	})
}

// run makes a world and runs it until the test ends.
func run(t *testing.T, cfg world.Config) *world.World {
	t.Helper()
	if err := netns.Available(); err != nil {
		t.Skip(err)
	}
	w, err := world.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the world ended with %v", err)
		}
		if _, err := os.Stat(w.Dir); !os.IsNotExist(err) {
			t.Errorf("%s: %v, want that it is gone", w.Dir, err)
		}
	})
	return w
}

// A program of the client finds a site by its name and fetches it, over both
// families, in several worlds at a time.
func TestWorlds(t *testing.T) {
	for _, peer := range []string{"curl", "nginx"} {
		if _, err := exec.LookPath(peer); err != nil {
			t.Skipf("%s is not installed", peer)
		}
	}
	var all sync.WaitGroup
	defer all.Wait()
	for range 3 {
		w := run(t, config())
		all.Go(func() {
			s, err := cover(t.Context(), w)
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			for _, family := range []string{"-4", "-6"} {
				var out bytes.Buffer
				cmd := exec.Command("curl", "-sS", family, "--cacert", filepath.Join(s.Dir, "ca.pem"), "-w", "%{remote_ip}", "-o", os.DevNull, "https://site.test/")
				cmd.Env = world.Environment()
				cmd.Stdout, cmd.Stderr = &out, &out
				if err := w.Client.Start(cmd); err != nil {
					t.Error(err)
					return
				}
				err := cmd.Wait()
				if got, err2 := netip.ParseAddr(out.String()); err != nil || err2 != nil || got != site && got != world.Twin(site) {
					t.Errorf("curl %s: %v: %s", family, err, out.String())
				}
			}
			if up, down := w.Censor.Counters(); up.Delivered < 10 || down.Delivered < 10 {
				t.Errorf("it did not come through the censor: %+v %+v", up, down)
			}
		})
	}
}

// After Move the client is reached at another address, and only there.
func TestMove(t *testing.T) {
	w := run(t, config())
	l, err := w.Abroad.Listen(t.Context(), "tcp", netip.AddrPortFrom(site, 80).String())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, want := range []string{"203.0.113.2", "203.0.113.130"} {
		c, err := w.Client.Dial(t.Context(), "tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if got := netip.MustParseAddrPort(c.LocalAddr().String()).Addr().String(); got != want {
			t.Errorf("the client is %s, want %s", got, want)
		}
		if want == world.Client.String() {
			if err := w.Move(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if l, err := w.Client.Listen(t.Context(), "tcp", netip.AddrPortFrom(world.Client, 0).String()); err == nil {
		l.Close()
		t.Error("the old address is still the client's")
	}
}

// What is abroad reaches itself without the censor, and programs' words are kept.
func TestProgram(t *testing.T) {
	cfg := config()
	cfg.Up = censor.Link{Loss: 1}
	w := run(t, cfg)
	cmd := exec.Command("getent", "ahosts", "site.test")
	if err := w.Program(w.Abroad, "getent", cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	log, err := os.ReadFile(filepath.Join(w.Dir, "getent.log"))
	if err != nil || !strings.Contains(string(log), site.String()) || !strings.Contains(string(log), world.Twin(site).String()) {
		t.Errorf("%q, %v", log, err)
	}
}

func TestShell(t *testing.T) {
	w := run(t, config())
	t.Setenv("https_proxy", "http://192.0.2.1:1")
	var out bytes.Buffer
	in := strings.NewReader("echo proxy=$https_proxy extra=$EXTRA; ip -br addr show lab0; false\n")
	if err := w.Shell(t.Context(), in, &out, io.Discard, "EXTRA=yes"); err != nil {
		t.Fatal(err)
	}
	if s := out.String(); !strings.Contains(s, "proxy= extra=yes") || !strings.Contains(s, world.Client.String()) {
		t.Errorf("%q", s)
	}
}

func TestTwin(t *testing.T) {
	if got := world.Twin(resolver).String(); got != "2001:db8:198::53" {
		t.Error(got)
	}
}

const victimVariable = "WORLD_TEST_VICTIM"

func TestMain(m *testing.M) {
	if os.Getenv(victimVariable) == "" {
		os.Exit(m.Run())
	}
	if err := victim(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// victim is a lab with everything in it. It prints its folder and nginx's
// process, and waits to be killed.
func victim() error {
	w, err := world.New(config())
	if err != nil {
		return err
	}
	go w.Run(context.Background())
	s, err := cover(context.Background(), w)
	if err != nil {
		return err
	}
	if err := w.Program(w.Client, "family", exec.Command("sh", "-c", "(sleep 1000 & sleep 1000) & sleep 1000")); err != nil {
		return err
	}
	fmt.Println(w.Dir, s.PID)
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// A lab that is killed leaves no process behind, and its folder goes with the
// next one.
func TestKilled(t *testing.T) {
	if err := netns.Available(); err != nil {
		t.Skip(err)
	}
	if err := nginxtest.Available(); err != nil {
		t.Skip(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), victimVariable+"=yes")
	cmd.Stderr = os.Stderr
	if _, err := cmd.StdinPipe(); err != nil { // open, until it is killed
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	fields := strings.Fields(line)
	if err != nil || len(fields) != 2 {
		t.Fatalf("%q, %v", line, err)
	}
	dir := fields[0]
	nginx, err := strconv.Atoi(fields[1])
	if err != nil {
		t.Fatal(err)
	}
	namespace, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", nginx))
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for len(inside(t, namespace)) > 0 {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("left: %q", inside(t, namespace))
		}
	}
	run(t, config())
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("%s: %v, want that it is gone", dir, err)
	}
}

// inside lists the processes in a network namespace.
func inside(t *testing.T, namespace string) (all []string) {
	t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if name, err := os.Readlink(link); err == nil && name == namespace {
			all = append(all, link)
		}
	}
	return all
}
