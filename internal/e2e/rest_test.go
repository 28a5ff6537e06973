//go:build linux

package e2e

import (
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"busel/config"
	"busel/internal/flow"
)

// What lies at rest: the client's directory, with a passphrase and without, and what is
// left when it was wiped.

const (
	firstPassphrase  = "correct horse battery staple"
	secondPassphrase = "белы бусел ляціць дадому"
)

// files are those of a directory, which may be gone.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if os.IsNotExist(err) || err == nil && !e.Type().IsRegular() {
			return nil
		}
		if err != nil {
			return err
		}
		data, err := os.ReadFile(name)
		all[strings.TrimPrefix(name, dir+"/")] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

var alphabets = []struct {
	run    *regexp.Regexp
	decode func(string) ([]byte, error)
	block  int // characters that are decoded together
}{
	{regexp.MustCompile(`[0-9A-Fa-f]{8,}`), hex.DecodeString, 2},
	{regexp.MustCompile(`[A-Za-z2-7]{8,}`), func(s string) ([]byte, error) { return base32.StdEncoding.DecodeString(strings.ToUpper(s)) }, 8},
	{regexp.MustCompile(`[A-Za-z0-9+/_-]{8,}`), func(s string) ([]byte, error) {
		return base64.StdEncoding.DecodeString(strings.NewReplacer("-", "+", "_", "/").Replace(s))
	}, 4},
}

// readings are a file as it is, and what stands in it in hexadecimal, base32 and base64,
// wherever in a run of such characters it begins.
func readings(file string) []string {
	all := []string{file}
	for _, a := range alphabets {
		for _, run := range a.run.FindAllString(file, -1) {
			for skip := range min(a.block, len(run)) {
				part := run[skip:]
				if b, err := a.decode(part[:len(part)/a.block*a.block]); err == nil {
					all = append(all, string(b))
				}
			}
		}
	}
	return all
}

// told are the secrets of which a file tells.
func told(file string, secrets map[string]string) (names []string) {
	for _, text := range readings(file) {
		for name, s := range secrets {
			if strings.Contains(text, s) {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// secretsOf is all that a directory without a passphrase tells: what is in its invites,
// and every word and number of its other secret files.
func secretsOf(t *testing.T, dir, invite string) map[string]string {
	t.Helper()
	b, err := config.ParseText(invite)
	if err != nil {
		t.Fatal(err)
	}
	secrets := map[string]string{"passphrase": firstPassphrase, "second passphrase": secondPassphrase}
	for i, r := range b.Relays {
		of := func(what string) string { return fmt.Sprintf("relay %d's %s", i, what) }
		secrets[of("key")] = string(r.Key[:])
		secrets[of("token")] = string(r.Token[:])
		secrets[of("certificate")] = string(r.CertHash[:])
		secrets[of("cover")] = r.CoverName
		for _, a := range r.Addresses {
			secrets[of("address")] = a.String()
			if a.Name == "" {
				port := []byte{byte(a.Port >> 8), byte(a.Port)}
				secrets[of("address in bytes")] = string(append(a.IP.AsSlice(), port...))
			}
		}
	}
	text := strings.TrimPrefix(strings.TrimSpace(invite), "busel:")
	for at := 0; at+24 <= len(text); at += 24 {
		secrets[fmt.Sprintf("invite at %d", at)] = text[at:][:24]
	}
	word := regexp.MustCompile(`[A-Za-z0-9+/]{6,}`)
	for name, data := range files(t, dir) {
		switch name {
		case "salt":
			secrets[name] = data
		case "memory", "look":
			for _, w := range word.FindAllString(data, -1) {
				secrets[name+": "+w] = w
			}
		}
	}
	return secrets
}

// TestReadings checks the check.
func TestReadings(t *testing.T) {
	secrets := map[string]string{"it": "a secret of some length"}
	for _, skip := range []string{"", "x", "xy", "xyz", "wxyz"} {
		whole := skip + secrets["it"] + "and more"
		for _, file := range []string{
			whole, hex.EncodeToString([]byte(whole)), strings.ToUpper(hex.EncodeToString([]byte(whole))),
			base32.StdEncoding.EncodeToString([]byte(whole)), strings.ToLower(base32.StdEncoding.EncodeToString([]byte(whole))),
			base64.StdEncoding.EncodeToString([]byte(whole)), base64.RawURLEncoding.EncodeToString([]byte(whole)),
		} {
			if len(told(file, secrets)) != 1 {
				t.Errorf("%q tells nothing", file)
			}
		}
	}
	if got := told("a secret of another length", secrets); len(got) > 0 {
		t.Errorf("%q is told by what does not", got)
	}
}

// furnish is a directory of a client that has been in use: it holds an invite, remembers
// networks, and has a look.
func furnish(t *testing.T, r *relay, page string) (dir string, c *client) {
	t.Helper()
	dir = t.TempDir()
	invitation(t, r.invite)
	command(t, r.invite, "client", "add", "-dir", dir, "-")
	look, err := os.ReadFile("../../obfs/look/looks/firefox-153.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "look"), look, 0o600); err != nil {
		t.Fatal(err)
	}
	c = runClient(t, dir, freePort(t))
	works(t, c, page)
	return dir, c
}

func works(t *testing.T, c *client, page string) {
	t.Helper()
	if got := curl(t, "--proxy", "socks5h://"+c.proxy, page); !strings.Contains(string(got), "You can read this") {
		t.Errorf("curl gets %q", got)
	}
}

// TestAtRest sets a passphrase, starts and unlocks the client, works with it, changes the
// passphrase and takes it away. As long as there is one a copy of the directory tells
// nothing of what it told before.
func TestAtRest(t *testing.T) {
	need(t, "curl")
	r := startRelay(t, relayOptions{})
	page := "http://" + startOrigin(t) + "/"
	dir, c := furnish(t, r, page)
	c.end()
	secrets := secretsOf(t, dir, r.invite)
	open := files(t, dir)
	tells := func() (names []string) {
		for _, data := range files(t, dir) {
			names = append(names, told(data, secrets)...)
		}
		slices.Sort(names)
		return slices.Compact(names)
	}
	// Else the check is no good. An address stands in an invite in bytes only.
	want := slices.DeleteFunc(slices.Collect(maps.Keys(secrets)), func(name string) bool {
		return strings.Contains(name, "passphrase") || strings.HasSuffix(name, "address")
	})
	slices.Sort(want)
	if got := tells(); !slices.Equal(got, want) {
		t.Fatalf("without a passphrase it tells %q, want %q", got, want)
	}
	if len(want) < 40 || open["memory"] == "" {
		t.Fatalf("only %d secrets: %q", len(want), want)
	}
	tight := func(when string) {
		t.Helper()
		if got := tells(); len(got) > 0 {
			t.Errorf("%s: it tells %q", when, got)
		}
		for name, data := range files(t, dir) {
			if len(data) > 0 && !strings.HasPrefix(data, "age-encryption.org/v1\n") {
				t.Errorf("%s: %s is not sealed", when, name)
			}
		}
	}
	fails := func(want, stdin string, args ...string) {
		t.Helper()
		args = slices.Insert(args, 1, "-dir", dir)
		if out, err := tryCommand(t, stdin, "client", args...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("client %q: %v, %s; want %q", args, err, out, want)
		}
	}
	does := func(want, stdin string, args ...string) {
		t.Helper()
		args = slices.Insert(args, 1, "-dir", dir)
		if out := command(t, stdin, "client", args...); !strings.Contains(out, want) {
			t.Errorf("client %q says %q, want %q", args, out, want)
		}
	}

	fails("at least 8 characters", "short\n", "passphrase", "set")
	fails("there is no passphrase", "", "passphrase", "change")
	fails("there is no passphrase", "", "unlock")
	does("under your passphrase", firstPassphrase+"\n", "passphrase", "set")
	tight("set")
	fails("there is a passphrase already", firstPassphrase+"\n", "passphrase", "set")
	fails("no passphrase was given", "", "list")
	does("r1", firstPassphrase+"\n", "list")

	// The client starts locked, and says so.
	again := func() *client {
		c := runClient(t, dir, freePort(t))
		eventually(t, 15*time.Second, "the client can be asked", func() bool {
			_, err := tryCommand(t, "", "client", "status", "-dir", dir)
			return err == nil
		})
		return c
	}
	c = again()
	if s := c.status(t); !s.Locked || s.Online || len(s.Paths) > 0 {
		t.Errorf("the status is %+v", s)
	}
	does("locked", "", "status")
	if out := string(curl(t, "-w", " %{http_code}", "--proxy", "http://"+c.proxy, page)); !strings.HasSuffix(out, " 503") || !strings.Contains(out, "locked") {
		t.Errorf("a browser is told %s", out)
	}
	if _, err := tryCurl(t.Context(), "--proxy", "socks5h://"+c.proxy, page); err == nil {
		t.Error("a locked client works")
	}
	fails("the passphrase is wrong", "correct horse\n", "unlock")
	if !c.status(t).Locked {
		t.Error("unlocked by a wrong passphrase")
	}
	does("unlocked", firstPassphrase+"\n", "unlock")
	works(t, c, page)
	if s := c.status(t); s.Locked || !s.Online || s.Network == "" {
		t.Errorf("the status is %+v", s)
	}

	// Nobody is asked while it runs.
	does("r1", "", "list")
	does(strings.TrimSpace(r.invite), "", "share")
	other := startRelay(t, relayOptions{})
	invitation(t, other.invite)
	does("the running client uses it", other.invite, "add", "-")
	eventually(t, 15*time.Second, "the other relay is known", func() bool { return len(c.status(t).Paths) == 2 })
	tight("added")
	does("Removed r2", "", "remove", "r2")

	does("under your passphrase", firstPassphrase+"\n"+secondPassphrase+"\n", "passphrase", "change")
	works(t, c, page)
	c.end() // and writes down what it remembers
	tight("changed")

	c = again()
	fails("the passphrase is wrong", firstPassphrase+"\n", "unlock")
	does("unlocked", secondPassphrase+"\n", "unlock")
	works(t, c, page)
	does("no passphrase any more", secondPassphrase+"\n", "passphrase", "remove")
	works(t, c, page)
	c.end()
	now := files(t, dir)
	for _, name := range []string{"salt", "look", "invites/r1"} {
		if now[name] != open[name] {
			t.Errorf("%s is no longer what it was", name)
		}
	}
	if !strings.HasPrefix(now["memory"], "busel memory 1 ") || len(now) != len(open) {
		t.Errorf("there are %q", slices.Collect(maps.Keys(now)))
	}
}

// openTerminal is both ends of a terminal.
func openTerminal(t *testing.T) (person, program *os.File) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { person.Close() })
	if err := unix.IoctlSetPointerInt(int(person.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Skip(err)
	}
	n, err := unix.IoctlGetInt(int(person.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Skip(err)
	}
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { program.Close() })
	return person, program
}

// onTerminal runs the client on a terminal. says waits until it has said something new.
func onTerminal(t *testing.T, args ...string) (cmd *exec.Cmd, say func(string), says func(string), all func() string) {
	t.Helper()
	person, theirs := openTerminal(t)
	cmd = exec.Command(filepath.Join(bin, "client"), args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs, theirs, theirs
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	var mu sync.Mutex
	var heard strings.Builder
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 4096)
		for {
			n, err := person.Read(buf)
			mu.Lock()
			heard.Write(buf[:n])
			mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		<-done
	})
	all = func() string {
		mu.Lock()
		defer mu.Unlock()
		return heard.String()
	}
	seen := 0
	says = func(want string) {
		t.Helper()
		eventually(t, 30*time.Second, "the client says "+want, func() bool {
			at := strings.Index(all()[seen:], want)
			if at >= 0 {
				seen += at + len(want)
			}
			return at >= 0
		})
	}
	say = func(text string) {
		if _, err := io.WriteString(person, text); err != nil {
			t.Error(err)
		}
	}
	return cmd, say, says, all
}

// TestAskedOnTerminal: the passphrase is typed unseen, may be mistyped, or be left for
// the page; and an interrupt leaves a terminal that echoes.
func TestAskedOnTerminal(t *testing.T) {
	r := startRelay(t, relayOptions{})
	dir := t.TempDir()
	command(t, r.invite, "client", "add", "-dir", dir, "-")

	set, say, says, all := onTerminal(t, "passphrase", "-dir", dir, "set")
	says("New passphrase: ")
	say(firstPassphrase + "\n")
	says("The same again: ")
	say(firstPassphrase + "\n")
	says("under your passphrase")
	if err := set.Wait(); err != nil || strings.Contains(all(), "battery") {
		t.Errorf("%v, %q", err, all())
	}

	list, say, says, all := onTerminal(t, "list", "-dir", dir)
	says("Passphrase: ")
	say("correct horse\n")
	says("That is not it.")
	says("Passphrase: ")
	say(firstPassphrase + "\n")
	says("r1")
	if err := list.Wait(); err != nil || strings.Contains(all(), "horse") {
		t.Errorf("%v, %q", err, all())
	}

	run, say, says, _ := onTerminal(t, "run", "-dir", dir, "-listen", "auto")
	says("Passphrase (or Enter")
	say("\n")
	says("It is locked.")
	say("\x03") // Ctrl-C
	if err := run.Wait(); err != nil {
		t.Errorf("the client ended with %v", err)
	}

	// Who double-clicks is asked on the page, whatever terminal comes with it.
	t.Setenv("DISPLAY", "")
	t.Setenv("WAYLAND_DISPLAY", "")
	run, say, says, _ = onTerminal(t, "run", "-open", "-dir", dir, "-listen", "auto")
	says("It is locked.")
	says("Its page, for one look: ")
	say("\x03")
	if err := run.Wait(); err != nil {
		t.Errorf("the client ended with %v", err)
	}

	run, say, says, all = onTerminal(t, "run", "-dir", dir, "-listen", "auto")
	says("Passphrase (or Enter")
	say("\x03")
	says("\n")
	if err := run.Wait(); err == nil {
		t.Errorf("ended well before it began: %q", all())
	}
}

// TestWipe: a running client ends and everything is gone; what is not the client's stays,
// and is named.
func TestWipe(t *testing.T) {
	need(t, "curl")
	r := startRelay(t, relayOptions{})
	page := "http://" + startOrigin(t) + "/"
	dir, c := furnish(t, r, page)
	if _, err := tryCommand(t, "yes\n", "client", "wipe", "-dir", dir); err == nil || !strings.Contains(err.Error(), "-yes") {
		t.Errorf("without a terminal: %v", err)
	}
	works(t, c, page)
	out := command(t, "", "client", "wipe", "-dir", dir, "-yes")
	if err := c.cmd.Wait(); err != nil {
		t.Errorf("the client ended with %v", err)
	}
	c.killed = true // it was waited for here
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the directory is there: %v, %v", err, slices.Collect(maps.Keys(files(t, dir))))
	}
	for _, want := range []string{"Removed all", filepath.Join(bin, "client"), "browsers", "history of this terminal"} {
		if !strings.Contains(out, want) {
			t.Errorf("it does not say %q: %s", want, out)
		}
	}

	// Files of others, and nothing that runs.
	dir, c = furnish(t, r, page)
	c.end()
	command(t, firstPassphrase+"\n", "client", "passphrase", "set", "-dir", dir)
	diary := filepath.Join(dir, "diary.txt")
	if err := os.WriteFile(diary, []byte("not the client's"), 0o600); err != nil {
		t.Fatal(err)
	}
	out = command(t, "", "client", "wipe", "-dir", dir, "-yes")
	if got := files(t, dir); len(got) != 1 || got["diary.txt"] != "not the client's" || !strings.Contains(out, diary) {
		t.Errorf("%q is left, and it says %s", got, out)
	}

	// A client that hangs is not waited for.
	dir, c = furnish(t, r, page)
	c.cmd.Process.Signal(syscall.SIGSTOP)
	defer c.cmd.Process.Signal(syscall.SIGCONT) // or it cannot be ended
	begin := time.Now()
	if _, err := tryCommand(t, "", "client", "wipe", "-dir", dir, "-yes"); err == nil || !strings.Contains(err.Error(), "a client still runs") {
		t.Errorf("beside a client that hangs: %v", err)
	}
	if took := time.Since(begin); took > 30*time.Second {
		t.Errorf("it took %v", took)
	}
	if got := files(t, dir); len(got) > 0 {
		t.Errorf("%q is left", got)
	}
	c.cmd.Process.Signal(syscall.SIGCONT)
	c.kill()

	// A person is asked.
	dir, c = furnish(t, r, page)
	c.end()
	ask, say, says, _ := onTerminal(t, "wipe", "-dir", dir)
	says("Type yes: ")
	say("no\n")
	says("nothing was removed")
	if err := ask.Wait(); err == nil || len(files(t, dir)) < 4 {
		t.Errorf("a no removes: %v, %q", err, files(t, dir))
	}
	ask, say, says, _ = onTerminal(t, "wipe", "-dir", dir)
	says("Type yes: ")
	say("yes\n")
	says("Removed all")
	if err := ask.Wait(); err != nil {
		t.Error(err)
	}
}

// TestClientKeepsNoTraces sends traffic of every kind to places with names of their own,
// which are reached, refused and not found, at every level of the log. No file of the
// client then has one of them; nor has the log above debug level.
func TestClientKeepsNoTraces(t *testing.T) {
	need(t, "curl")
	r := startRelay(t, relayOptions{})
	site := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "reached") }))
	site.Listener.Close()
	var err error
	if site.Listener, err = net.Listen("tcp", tracedSite+":0"); err != nil {
		t.Fatal(err)
	}
	site.Start()
	defer site.Close()
	at := netip.MustParseAddrPort(site.Listener.Addr().String())
	peer := serveUDP(t, tracedUDP+":0", echo)
	for _, level := range []string{"debug", "info", "warn", "error"} {
		t.Run(level, func(t *testing.T) {
			dir := t.TempDir()
			command(t, r.invite, "client", "add", "-dir", dir, "-")
			if err := os.WriteFile(filepath.Join(dir, "client.toml"), fmt.Appendf(nil, "[log]\nlevel = %q\n", level), 0o600); err != nil {
				t.Fatal(err)
			}
			proxy := freePort(t)
			p := startUnjudged(t, filepath.Join(bin, "client"), "run", "-dir", dir, "-listen", proxy)
			eventually(t, 15*time.Second, "client listens", func() bool { return answers(proxy) })
			for _, way := range []string{"socks5h://", "socks4a://", "http://"} {
				if got := string(curl(t, "--proxy", way+proxy, "http://"+at.String()+"/"+tracedName)); got != "reached" {
					t.Errorf("over %s: %q", way, got)
				}
				for _, url := range []string{"http://" + tracedNowhere + "/", "https://" + tracedName + "/", "http://" + tracedClosed + ":1/", "https://" + tracedDenied + "/"} {
					tryCurl(t.Context(), "--max-time", "20", "--proxy", way+proxy, url)
				}
			}
			control, socket := associate(t, proxy)
			defer control.Close()
			defer socket.Close()
			eventually(t, 20*time.Second, "a datagram comes back", func() bool {
				socket.Write(append(flow.AddrFrom(peer).Append([]byte{0, 0, 0}), "hello"...))
				socket.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
				_, err := socket.Read(make([]byte, 100))
				return err == nil
			})
			look := func(when string) {
				t.Helper()
				for name, data := range files(t, dir) {
					if w := holds(data, tracedDestinations); w != "" {
						t.Errorf("%s, %s holds %q", when, name, w)
					}
				}
			}
			look("while it runs")
			p.end()
			look("when it has ended")
			if _, remembers := files(t, dir)["memory"]; !remembers {
				t.Error("nothing was written at all")
			}
			debug := false
			for line := range strings.Lines(p.err.String()) {
				if strings.Contains(line, `"level":"DEBUG"`) {
					debug = true
				} else if w := holds(line, tracedDestinations); w != "" {
					t.Errorf("the log holds %q: %s", w, line)
				}
			}
			if debug != (level == "debug") {
				t.Errorf("the log is not on level %s", level)
			}
		})
	}
}

// TestLoginAtRest: user and password of the proxy go under the passphrase and come back,
// and programs have to say them all the while.
func TestLoginAtRest(t *testing.T) {
	need(t, "curl")
	dir := t.TempDir()
	const user, password = "anna-of-minsk", "stork on the roof"
	settings := "# mine\n[local]\nuser = \"" + user + "\"\npassword = \"" + password + "\"\nprograms = [\"curl\"]\n"
	file := filepath.Join(dir, "client.toml")
	if err := os.WriteFile(file, []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	keep := filepath.Join(t.TempDir(), "old") // where the disk has it
	if err := os.Link(file, keep); err != nil {
		t.Fatal(err)
	}
	secrets := map[string]string{"user": user, "password": password, "passphrase": firstPassphrase}
	tells := func(when string, want ...string) {
		t.Helper()
		var names []string
		for _, data := range files(t, dir) {
			names = append(names, told(data, secrets)...)
		}
		slices.Sort(names)
		if !slices.Equal(slices.Compact(names), want) {
			t.Errorf("%s it tells %q, want %q", when, names, want)
		}
	}
	tells("at first", "password", "user")
	command(t, firstPassphrase+"\n", "client", "passphrase", "-dir", dir, "set")
	tells("with a passphrase")
	if data, err := os.ReadFile(keep); err != nil || len(told(string(data), secrets)) > 0 {
		t.Errorf("what was written before is not overwritten: %s, %v", data, err)
	}
	if data, err := os.ReadFile(file); string(data) != "# mine\n[local]\nprograms = [\"curl\"]\n" {
		t.Errorf("client.toml is %q, %v", data, err)
	}
	status := func(c *client, login string) string {
		t.Helper()
		args := []string{"-o", os.DevNull, "-w", "%{http_code}", "--proxy", "http://" + c.proxy, "http://site.example/"}
		if login != "" {
			args = append(args, "--proxy-user", login)
		}
		return string(curl(t, args...))
	}
	c := runClient(t, dir, freePort(t))
	if none, some := status(c, ""), status(c, user+":"+password); none != "407" || some != "503" {
		t.Errorf("locked, it answers %s and %s", none, some)
	}
	command(t, firstPassphrase+"\n", "client", "unlock", "-dir", dir)
	if none, wrong, right := status(c, ""), status(c, user+":stork"), status(c, user+":"+password); none != "407" || wrong != "407" || right != "503" {
		t.Errorf("unlocked, it answers %s, %s and %s", none, wrong, right)
	}
	tells("in use")
	command(t, firstPassphrase+"\n", "client", "passphrase", "-dir", dir, "remove")
	tells("without a passphrase", "password", "user")
	if set, err := config.ParseClient("client.toml", []byte(files(t, dir)["client.toml"])); err != nil || set.User != user || string(set.Password) != password || len(set.Programs) != 1 {
		t.Errorf("client.toml is %+v, %v", set, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "password")); !os.IsNotExist(err) {
		t.Errorf("the other file stays: %v", err)
	}
	if none, right := status(c, ""), status(c, user+":"+password); none != "407" || right != "503" {
		t.Errorf("in the end it answers %s and %s", none, right)
	}
}
