//go:build linux

package e2e

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/jpeg"
	"image/png"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"busel/config"
	"busel/internal/words"
)

// browserTools is where scripts/test installs what drives Chromium.
const browserTools = "../../scripts/tools/browser"

// residentPlan is what testdata/resident.mjs reads.
type residentPlan struct {
	Stories    []string          `json:"stories"`
	Chromium   string            `json:"chromium"`
	Language   string            `json:"language"`
	Words      map[string]string `json:"words"`
	Links      []string          `json:"links"` // to the page, each good once
	Proxy      string            `json:"proxy"`
	Origin     string            `json:"origin"`
	Invite     string            `json:"invite"`
	Picture    string            `json:"picture"` // files
	Noise      string            `json:"noise"`
	Video      string            `json:"video,omitempty"`
	Pictures   string            `json:"pictures,omitempty"` // a folder to leave screenshots in
	Failure    string            `json:"failure"`            // that the page has to name
	Passphrase string            `json:"passphrase,omitempty"`
	Patience   int64             `json:"patience"` // milliseconds
	Requests   int               `json:"requests"` // the most before the page shows anything; the link is one
}

// someone sits in front of a client's page.
type someone struct {
	t     *testing.T
	in    io.Writer
	lines chan string
}

// sit starts the browser. What it finds wrong is an error of the test. The command line
// inside, if there is one, goes before the program's own.
func sit(t *testing.T, c *client, language string, plan residentPlan, inside ...string) *someone {
	t.Helper()
	need(t, "chromium", "node")
	tools, err := filepath.Abs(browserTools)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(tools, "node_modules", "playwright-core")); err != nil {
		t.Skip("playwright-core is not installed: scripts/test install does it")
	}
	plan.Chromium, _ = exec.LookPath("chromium")
	plan.Language, plan.Proxy, plan.Requests, plan.Patience = language, c.proxy, 5, browserTime.Milliseconds()
	plan.Pictures = os.Getenv("BUSEL_SCREENSHOTS")
	plan.Words = map[string]string{}
	languages, err := words.All()
	if err != nil {
		t.Fatal(err)
	}
	catalogue := words.Pick(languages, language, "")
	for key := range catalogue.Texts {
		plan.Words[key] = catalogue.Say(key)
	}
	plan.Words["wifi.taken.2"] = strings.ReplaceAll(catalogue.Texts["wifi.taken"]["few"], "{n}", "2") // Slavic
	for range 8 {
		plan.Links = append(plan.Links, strings.TrimSpace(command(t, "", "client", "page", "-dir", c.dir, "-no-open")))
	}
	args := append(inside, "node", "testdata/resident.mjs")
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "BUSEL_BROWSER_TOOLS="+tools, "TMPDIR="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var said output
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := &someone{t: t, in: in, lines: make(chan string, 1000)}
	go func() {
		defer close(s.lines)
		for text := bufio.NewScanner(out); text.Scan(); {
			s.lines <- text.Text()
		}
	}()
	t.Cleanup(func() {
		in.Close() // it closes the browser then, which is in a group of its own
		killer := time.AfterFunc(30*time.Second, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
		for range s.lines {
		}
		killer.Stop()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("the browser's driver said: %s", &said)
		}
	})
	text, err := json.Marshal(plan)
	if err != nil {
		t.Fatal(err)
	}
	s.say(string(text))
	return s
}

func (s *someone) say(line string) {
	s.t.Helper()
	if _, err := io.WriteString(s.in, line+"\n"); err != nil {
		s.t.Fatal(err)
	}
}

// hear waits for a line with that beginning and returns the rest of it.
func (s *someone) hear(want string) string {
	s.t.Helper()
	timeout := time.After(2 * browserTime)
	for {
		select {
		case line, ok := <-s.lines:
			if !ok {
				s.t.Fatalf("the browser has gone; want %q", want)
			}
			if fault, is := strings.CutPrefix(line, "! "); is {
				s.t.Error(fault)
				continue
			}
			rest, ok := strings.CutPrefix(line, want)
			if !ok {
				s.t.Fatalf("the browser says %q, want %q", line, want)
			}
			return strings.TrimSpace(rest)
		case <-timeout:
			s.t.Fatalf("the browser does not say %q", want)
		}
	}
}

// threeWays is an invite of three relays, which are one: it is too much for one code.
func threeWays(t *testing.T, text string) *config.Bundle {
	t.Helper()
	b, err := config.ParseText(text)
	if err != nil {
		t.Fatal(err)
	}
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	long, err := config.Sign(key, 1, b.Relays[0], b.Relays[0], b.Relays[0])
	if err != nil {
		t.Fatal(err)
	}
	if len(long.Codes()) < 2 {
		t.Fatal("the invite has one code")
	}
	return long
}

// video is a film of the invite's codes, one after the other, as a phone shows them to a
// camera: smaller than the picture, turned by none, and with a grey background. Chromium
// plays files of JPEGs in a row.
func video(t *testing.T, b *config.Bundle) string {
	t.Helper()
	data, err := config.QRPNG(b)
	if err != nil {
		t.Fatal(err)
	}
	all, err := png.Decode(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	n := len(b.Codes())
	side := all.Bounds().Dx() / int(math.Ceil(math.Sqrt(float64(n))))
	var film bytes.Buffer
	for i := range n {
		const width, height = 1280, 720
		frame := image.NewGray(image.Rect(0, 0, width, height))
		draw.Draw(frame, frame.Bounds(), image.NewUniform(color.Gray{110}), image.Point{}, draw.Src)
		columns := all.Bounds().Dx() / side
		from := image.Pt(i%columns*side, i/columns*side)
		at := image.Pt((width-side)/2-30+20*i, (height-side)/2)
		draw.Draw(frame, image.Rectangle{at, at.Add(image.Pt(side, side))}, all, from, draw.Src)
		var one bytes.Buffer
		if err := jpeg.Encode(&one, frame, &jpeg.Options{Quality: 80}); err != nil {
			t.Fatal(err)
		}
		for range 15 { // half a second
			film.Write(one.Bytes())
		}
	}
	file := filepath.Join(t.TempDir(), "camera.mjpeg")
	if err := os.WriteFile(file, film.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// noise is a photo of nothing.
func noise(t *testing.T) string {
	t.Helper()
	img := image.NewGray(image.Rect(0, 0, 400, 300))
	for i := range img.Pix {
		img.Pix[i] = byte(rand.N(256))
	}
	var data bytes.Buffer
	if err := jpeg.Encode(&data, img, nil); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "noise.jpg")
	if err := os.WriteFile(file, data.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestResident has a resident who never saw a terminal take an invite in each of the
// ways, and read a page through the proxy; and looks at every view of the page for
// whether everybody can use it, at the widths of a computer and a phone, light and dark.
// BUSEL_SCREENSHOTS names a folder to keep the pictures in.
func TestResident(t *testing.T) {
	r := startRelay(t, relayOptions{quic: true})
	origin := "http://" + startOrigin(t) + "/"
	one, err := config.ParseText(r.invite)
	if err != nil {
		t.Fatal(err)
	}
	picture := filepath.Join(t.TempDir(), "invite.png")
	data, err := config.QRPNG(one)
	if err == nil {
		err = os.WriteFile(picture, data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	films := map[string]string{"en": video(t, one), "ru": video(t, threeWays(t, r.invite)), "be": video(t, threeWays(t, r.invite))}
	if testing.Short() {
		delete(films, "ru") // whose words are about as long as those of be
	}
	for language, film := range films {
		t.Run(language, func(t *testing.T) {
			invitation(t, r.invite)
			c := startClient(t)
			s := sit(t, c, language, residentPlan{
				Stories: []string{"first", "views", "quit"}, Origin: origin, Invite: r.invite, Picture: picture, Noise: noise(t), Video: film,
			})
			for _, way := range []string{"text", "picture", "camera"} {
				s.hear("read by " + way)
				if before, after := r.status(t).Relay.StreamsTotal, c.status(t); before == 0 || !after.Online {
					t.Errorf("by %s: the relay counts %d streams, the client is online: %t", way, before, after.Online)
				}
				s.say("go on")
			}
			var looks int
			if fmt.Sscan(s.hear("done"), &looks); looks < 16 || language == "en" && looks < 28 {
				t.Errorf("only %d views were looked at", looks)
			}
			eventually(t, 10*time.Second, "the client has ended", func() bool { return !answers(c.proxy) })
			text, err := os.ReadFile(filepath.Join(c.dir, "client.toml"))
			if err != nil || !strings.Contains(string(text), "127.0.0.1:2080") || !strings.Contains(string(text), fmt.Sprintf("language = %q", language)) {
				t.Errorf("client.toml has %s, %v", text, err)
			}
			s.nothingVisited(t, c, origin)
		})
	}
}

// nothingVisited looks for the site in everything that the client has written.
func (s *someone) nothingVisited(t *testing.T, c *client, origin string) {
	t.Helper()
	site := strings.TrimSuffix(strings.TrimPrefix(origin, "http://"), "/")
	err := filepath.Walk(c.dir, func(path string, info os.FileInfo, err error) error {
		if err != nil || !info.Mode().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if bytes.Contains(data, []byte(site)) {
			t.Errorf("%s has the site that was visited", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// TestResidentShares hands the program and an invite to another device on a network
// without internet, and no longer when the machine has gone to another one.
func TestResidentShares(t *testing.T) {
	need(t, "ip", "chromium", "node")
	if os.Geteuid() != 0 {
		t.Skip("a network of its own needs root")
	}
	r := startRelay(t, relayOptions{})
	dir := t.TempDir()
	invitation(t, r.invite)
	command(t, r.invite, "client", "add", "-dir", dir, "-")
	if err := os.Mkdir(filepath.Join(dir, "share"), 0o700); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"client.exe": "the same for Windows"}
	if err := os.WriteFile(filepath.Join(dir, "share", "client.exe"), []byte(want["client.exe"]), 0o600); err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(filepath.Join(bin, "client"))
	if err != nil {
		t.Fatal(err)
	}
	want["client"] = string(program)

	space := fmt.Sprintf("busel-wifi-%d", os.Getpid())
	ip := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
		}
	}
	ip("netns", "add", space)
	t.Cleanup(func() { exec.Command("ip", "netns", "delete", space).Run() })
	ip("-n", space, "link", "set", "lo", "up")
	ip("-n", space, "link", "add", "wifi", "type", "veth", "peer", "name", "air")
	ip("-n", space, "addr", "add", "192.168.77.5/24", "dev", "wifi")
	ip("-n", space, "link", "set", "wifi", "up")
	ip("-n", space, "link", "set", "air", "up")
	inside := []string{"ip", "netns", "exec", space}
	c := &client{proxy: "127.0.0.1:1080"}
	c.program = startUnjudged(t, "ip", "netns", "exec", space, filepath.Join(bin, "client"), "run", "-dir", dir)
	c.program.dir = dir
	eventually(t, 15*time.Second, "the client answers", func() bool {
		_, err := tryCommand(t, "", "client", "status", "-dir", dir)
		return err == nil
	})
	s := sit(t, c, "be", residentPlan{Stories: []string{"wifi"}, Invite: r.invite}, inside...)
	if address := s.hear("address"); !strings.HasPrefix(address, "http://192.168.77.5:") {
		t.Errorf("it is offered at %s", address)
	}
	s.say("go on")
	for range want {
		name, sum, _ := strings.Cut(s.hear("file"), " ")
		if fmt.Sprintf("%x", sha256.Sum256([]byte(want[name]))) != sum {
			t.Errorf("%s arrived with the sum %s", name, sum)
		}
	}
	s.hear("again")
	ip("-n", space, "addr", "add", "10.77.0.5/24", "dev", "wifi")
	ip("-n", space, "addr", "delete", "192.168.77.5/24", "dev", "wifi")
	s.hear("done")
}

// TestResidentLocks sets a passphrase on the page, gives it at the next start, and in the
// end removes everything.
func TestResidentLocks(t *testing.T) {
	r := startRelay(t, relayOptions{})
	c := startClient(t, r.invite)
	plan := residentPlan{Stories: []string{"protect"}, Passphrase: "stork over every border"}
	secrets.Store(plan.Passphrase, "the passphrase")
	if !everything(t, c.dir, r.invite[20:60]) {
		t.Error("the invite is not there to be looked for")
	}
	sit(t, c, "ru", plan).hear("done")
	c.end()
	if everything(t, c.dir, r.invite[20:60], r.listen) {
		t.Error("the directory tells of the relay")
	}
	c = runClient(t, c.dir, c.proxy)
	plan.Stories = []string{"unlock", "wipe"}
	sit(t, c, "be", plan).hear("done")
	eventually(t, 20*time.Second, "the client has ended", func() bool { return !answers(c.proxy) })
	c.end()
	if left, err := os.ReadDir(c.dir); err != nil && !os.IsNotExist(err) || len(left) > 0 {
		t.Errorf("left in the directory: %v, %v", left, err)
	}
}

// everything reports whether some file in dir has one of the words.
func everything(t *testing.T, dir string, words ...string) (found bool) {
	t.Helper()
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err != nil || !info.Mode().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		for _, w := range words {
			found = found || bytes.Contains(data, []byte(w))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestResidentSeesABlock: within 3 s of a block the page says that there is one, and what
// kind, and what the client does; and afterwards the history is right.
func TestResidentSeesABlock(t *testing.T) {
	// In the one the connection is cut and new ones are refused, in the other they are let
	// through.
	for _, story := range []string{"block", "move"} {
		t.Run(story, func(t *testing.T) {
			need(t, "curl")
			var p *path
			r := startRelay(t, relayOptions{via: func(listen string) string { p = newPath(t, listen, 20*time.Millisecond); return p.addr() }})
			c := startClient(t, r.invite)
			// Something has to be under way until the end, however slow the browser is: a client
			// that nobody wants anything of does not look for a way back.
			load := exec.CommandContext(t.Context(), "curl", "-sS", "--limit-rate", "1M", "-o", os.DevNull,
				"--proxy", "socks5h://"+c.proxy, "http://"+startOrigin(t)+"/bytes/2000000000")
			load.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
			if err := load.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() {
				load.Process.Kill()
				load.Wait()
			}()
			eventually(t, 10*time.Second, "bytes run", func() bool { return c.status(t).BytesDown > 1<<20 })
			s := sit(t, c, "be", residentPlan{Stories: []string{story}, Failure: "reset"})
			s.hear("connected")
			const most = 3000 // milliseconds
			var took int
			if story == "block" {
				p.block()
				s.say("blocked")
				fmt.Sscan(s.hear("blocked"), &took)
				s.hear("looked")
				p.unblock(t)
				s.say("free")
			} else {
				p.cut()
				s.say("cut")
				fmt.Sscan(s.hear("told"), &took)
			}
			if took > most {
				t.Errorf("the page says so after %d ms, want at most %d", took, most)
			}
			var history []string
			decode(t, s.hear("history"), &history)
			t.Logf("after %d ms; then:\n%s", took, strings.Join(history, "\n"))
			s.hear("done")
			told := strings.Join(history, "\n")
			for _, want := range []string{"start: ", "connected: ", "moved: "} {
				if strings.Count(told, want) != 1 {
					t.Errorf("the history has %q %d times", want, strings.Count(told, want))
				}
			}
			if story == "block" && !strings.Contains(told, "blocked: ") {
				t.Error("the history lacks the way that did not get through")
			}
		})
	}
}

// TestResidentInFirefox has another browser take an invite.
func TestResidentInFirefox(t *testing.T) {
	need(t, "firefox-esr")
	r := startRelay(t, relayOptions{})
	invitation(t, r.invite)
	c := startClient(t)
	f := startFirefox(t, c.proxy)
	f.asBrowser(`Services.prefs.setIntPref("network.proxy.type", 0); arguments[0](null);`)
	do := func(script string) (text string) {
		t.Helper()
		var got struct{ Value string }
		f.call("WebDriver:ExecuteScript", map[string]any{"script": script, "args": []any{}}, &got)
		return got.Value
	}
	shows := func(want string) {
		t.Helper()
		eventually(t, browserTime, "the page says "+want, func() bool {
			return do("return document.getElementById('title').textContent") == want
		})
	}
	f.call("WebDriver:Navigate", map[string]any{"url": strings.TrimSpace(command(t, "", "client", "page", "-dir", c.dir, "-no-open"))}, nil)
	shows("Add an invite")
	if at := do("return location.href"); at != "http://"+c.proxy+"/" {
		t.Errorf("the address keeps %s", at)
	}
	do("document.getElementById('text').value = '" + r.invite + "'; document.querySelector('#text-form button').click(); return ''")
	shows("You are connected")
	if s := c.status(t); !s.Online {
		t.Errorf("the client says %+v", s)
	}
	if at := do("return location.hash"); at != "#programs" {
		t.Errorf("the page shows %s", at)
	}
}
