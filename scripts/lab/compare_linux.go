package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"busel/scripts/lab/censor/packet"
	"busel/scripts/lab/censor/rule"
	"busel/scripts/lab/sample"
	"busel/scripts/lab/scenario"
)

// Of the comparison with a browser.
const (
	compared  = 10   // records of each flow
	level     = 0.01 // of the two-sample test; a tenth of it in the short form, which no chance shall stop
	deals     = 9999
	flowBytes = 64 << 10
	visitTime = 60 * time.Second // a busy machine takes long to start a browser
)

// flow is the beginning of one TCP connection to the relay.
type flow struct {
	up, down *packet.Stream
	hello    []int // sizes of the segments with the ClientHello
	records  []int // in the order of their ends; downward ones are negative
	types    []byte
	seen     [2]int // bytes of records already told
	packets  []byte // as in a pcap file
	// What row T1 looks for, in as many packets as nDPI does, and in more.
	bursts [2]rule.Bursts
}

// maxPackets bounds what is kept of a flow, in bytes.
const maxPackets = 1 << 20

// manyPackets is how many packets of a flow are searched for a TLS handshake inside.
const manyPackets = 200

// userAgent is what the installed Chromium says of itself when it has a window.
func userAgent(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "chromium", "--version").Output()
	major := regexp.MustCompile(`[0-9]+`).FindString(string(out))
	if err != nil || major == "" {
		return "", fmt.Errorf("chromium does not tell its version: %q, %w", out, err)
	}
	return "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/" + major + ".0.0.0 Safari/537.36", nil
}

// pcap is a file of packets (draft-ietf-opsawg-pcap) without a link layer's header. Not
// all programs read pcapng files with several interfaces, as the lab's are.
func pcap(flows []*flow) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 0xa1b2c3d4)
	b = append(b, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 101, 0, 0, 0) // version 2.4, 256 KiB, LINKTYPE_RAW
	for _, f := range flows {
		b = append(b, f.packets...)
	}
	return b
}

// watch lets everything pass and keeps the flows to one address.
type watch struct {
	to netip.AddrPort

	mu    sync.Mutex
	flows map[netip.AddrPort]*flow
	order []netip.AddrPort
}

// Judge implements [censor.Judge].
func (w *watch) Judge(now time.Time, d rule.Direction, b []byte) rule.Verdict {
	p, err := packet.Parse(b)
	if err != nil || p.Protocol != packet.TCP || !p.Transport() {
		return rule.Verdict{}
	}
	up := p.Dst == w.to
	if !up && p.Src != w.to {
		return rule.Verdict{}
	}
	client := p.Src
	if !up {
		client = p.Dst
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	f := w.flows[client]
	if f == nil {
		f = &flow{bursts: [2]rule.Bursts{{}, {Most: manyPackets}}}
		w.flows[client] = f
		w.order = append(w.order, client)
	}
	f.add(up, &p)
	for i := range f.bursts {
		f.bursts[i].Add(d, &p)
	}
	if n := len(p.Bytes); len(f.packets) < maxPackets {
		for _, v := range []int{int(now.Unix()), now.Nanosecond() / 1000, n, n} {
			f.packets = binary.LittleEndian.AppendUint32(f.packets, uint32(v))
		}
		f.packets = append(f.packets, p.Bytes...)
	}
	return rule.Verdict{}
}

// Counts implements [censor.Judge].
func (*watch) Counts() []rule.Count { return nil }

// take returns the flows so far on which the client said more than a handshake, and
// forgets them all.
func (w *watch) take() (flows []*flow) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, client := range w.order {
		f, data := w.flows[client], 0
		for i, typ := range f.types {
			if typ == 23 && f.records[i] > 0 {
				data++
			}
		}
		if data > 2 { // Finished and preface; a browser opens some connections that it does not use
			flows = append(flows, f)
		}
	}
	w.flows, w.order = map[netip.AddrPort]*flow{}, nil
	return flows
}

// add takes a packet.
func (f *flow) add(up bool, p *packet.Packet) {
	s, i := &f.down, 1
	if up {
		s, i = &f.up, 0
	}
	if p.Has(packet.SYN) {
		*s = packet.NewStream(p.Seq+1, flowBytes)
		return
	}
	if *s == nil || len(p.Payload) == 0 {
		return
	}
	before := len((*s).Bytes())
	(*s).Add(p.Seq, p.Payload)
	b := (*s).Bytes()
	if up && f.seen[0] == 0 && len(b) > before {
		f.hello = append(f.hello, len(p.Payload))
	}
	for len(b) >= f.seen[i]+5 {
		r := b[f.seen[i]:]
		n := int(binary.BigEndian.Uint16(r[3:]))
		if len(r) < 5+n {
			break
		}
		f.seen[i] += 5 + n
		f.types = append(f.types, r[0])
		if !up {
			n = -n
		}
		f.records = append(f.records, n)
	}
}

// first are the first records; after those that follow the client's Finished.
func (f *flow) first() sample.Row { return f.records[:min(compared, len(f.records))] }

func (f *flow) after() sample.Row {
	for i, typ := range f.types {
		if typ == 23 && f.records[i] > 0 { // the Finished
			return f.records[i+1 : min(i+1+compared, len(f.records))]
		}
	}
	return nil
}

// leastMessage is a bit less than the shortest record with a request, or with nginx's
// SETTINGS, in bytes.
const leastMessage = 56

// odd names the ends, for each record, that said something shorter than anything with HTTP/2 is, but
// for SETTINGS ACK (26 bytes), WINDOW_UPDATE and RST_STREAM (30), PRIORITY (31) and PING (34).
func (f *flow) odd() (ends []string) {
	finished := false
	for i, n := range f.records {
		if f.types[i] != 23 {
			continue
		}
		if finished && max(n, -n) < leastMessage && !slices.Contains([]int{26, 30, 31, 34}, max(n, -n)) {
			ends = append(ends, map[bool]string{true: "client", false: "server"}[n > 0])
		}
		finished = finished || n > 0
	}
	return ends
}

// ja4 of the ClientHello.
func (f *flow) ja4() string {
	msg, err := packet.Handshake(f.up.Bytes(), true)
	if err != nil {
		return "none"
	}
	h, err := packet.ParseHello(msg)
	if err != nil {
		return "none"
	}
	return h.JA4(false)
}

// seen is what observers say of flows of one kind.
type seen struct {
	name  string
	flows []*flow
	file  string          // the capture
	said  map[string]bool // what each observer says, each once
}

func (s *seen) rows(of func(*flow) sample.Row) (rows []sample.Row) {
	for _, f := range s.flows {
		rows = append(rows, of(f))
	}
	return rows
}

// runCompare lets Busel, a real Chromium and, as one who must be told apart, curl make
// flows to the same relay, and compares what observers say of them.
func (o *options) runCompare(ctx context.Context) (err error) {
	for _, program := range []string{"chromium", "tshark", "ndpiReader"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("%w: scripts/test install brings it", err)
		}
	}
	b, err := newBed(ctx, bedOptions{programs: o.programs, cover: scenario.OtherName, log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, o.keepLogs(b, "compare"), b.close()) }()
	b.Shape(scenario.Path{})
	relay := netip.AddrPortFrom(relayAddresses[0], 443)
	busel := &scenario.Busel{Transports: `["mirror"]`}
	if err := busel.StartRelays(ctx, b.ground); err != nil {
		return err
	}
	defer busel.Stop()
	w := &watch{to: relay, flows: map[netip.AddrPort]*flow{}}
	b.world.Censor.SetJudge(w)
	in := func(ctx context.Context, name string, args ...string) error {
		ctx, cancel := context.WithTimeout(ctx, visitTime)
		defer cancel()
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Env = append(os.Environ(), "HOME="+b.world.Dir)
		cmd.WaitDelay = time.Second
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := b.world.Client.Start(cmd); err != nil {
			return err
		}
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("%s: %w: %s", name, err, out.Bytes()[max(0, out.Len()-300):])
		}
		return nil
	}
	page := []string{"-sS", "-o", "/dev/null", "--cacert", scenario.Authority(b.world.Dir), "--proxy", "socks5h://" + busel.Proxy(), "https://" + scenario.OtherName + "/"}
	spki := sha256.Sum256(b.cover.RawSubjectPublicKeyInfo)
	at := scenario.OtherName
	agent, err := userAgent(ctx) // without a window a Chromium says so, and nowhere else
	if err != nil {
		return err
	}
	chromium := func(i int, way ...string) error {
		profile := filepath.Join(b.world.Dir, fmt.Sprintf("chromium%d", i))
		defer os.RemoveAll(profile)
		args := []string{"--headless", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
			"--disable-sync", "--disable-component-update", "--no-sandbox", "--user-data-dir=" + profile,
			"--user-agent=" + agent, "--ignore-certificate-errors-spki-list=" + base64.StdEncoding.EncodeToString(spki[:])}
		return in(ctx, "chromium", slices.Concat(args, way, []string{"--dump-dom", "https://" + at + "/"})...)
	}
	kinds := []struct {
		name string
		one  func(i int) error
	}{
		{"chromium", func(i int) error {
			return chromium(i, "--no-proxy-server", fmt.Sprintf("--host-resolver-rules=MAP %s %s, MAP * ~NOTFOUND", at, relay.Addr()))
		}},
		{"busel", func(i int) error {
			if err := busel.StartClient(ctx, b.ground); err != nil {
				return err
			}
			defer busel.StopClient()
			switch i % 3 { // three TLS handshakes inside, of different sizes
			case 0:
				return chromium(i, "--proxy-server=socks5://"+busel.Proxy())
			case 1:
				return in(ctx, "curl", append(page, "--tls-max", "1.2")...)
			}
			return in(ctx, "curl", page...)
		}},
		{"curl", func(int) error {
			return in(ctx, "curl", "-sSk", "-o", "/dev/null", "--noproxy", "*", "--resolve", fmt.Sprintf("%s:443:%s", at, relay.Addr()), "https://"+at+"/")
		}},
	}
	var all []*seen
	for _, k := range kinds {
		s := &seen{name: k.name, file: filepath.Join(cmp.Or(o.pcap, b.world.Dir), k.name+".pcap"), said: map[string]bool{}}
		w.take()
		for i := 0; len(s.flows) < o.times; i++ {
			if err := k.one(i); err != nil || i > 2*o.times {
				return errors.Join(err, fmt.Errorf("%s: after %d flows", k.name, len(s.flows)))
			}
			s.flows = append(s.flows, w.take()...)
			fmt.Fprintf(os.Stderr, "%s: %d of %d flows\n", k.name, len(s.flows), o.times)
		}
		if err := os.WriteFile(s.file, pcap(s.flows), 0o600); err != nil {
			return err
		}
		if err := s.ask(ctx, relay); err != nil {
			return err
		}
		all = append(all, s)
	}
	limit := level
	if o.short {
		limit /= 10
	}
	return verdictOf(all[0], all[1], all[2], limit)
}

// labels are what ndpiReader says of a flow, and varies are those that are different for
// each flow of one browser: counts, times, and JA3 of permuted extensions.
var (
	labels = regexp.MustCompile(`\[([^\]]+)\]`)
	varies = regexp.MustCompile(`^([0-9]|Goodput|bytes ratio|IAT|Pkt Len|JA3C|Plen Bins)`)
)

// look is what the lab says itself.
func (s *seen) look() {
	for _, f := range s.flows {
		s.said["JA4 "+f.ja4()] = true
		s.said[fmt.Sprintf("hello in %d segments, the first of %d bytes", len(f.hello), f.hello[0])] = true
		for _, end := range f.odd() {
			s.said["a record of the "+end+"'s that is shorter than with HTTP/2"] = true
		}
		for i, most := range []string{"25", strconv.Itoa(manyPackets)} {
			if f.bursts[i].Found() {
				s.said["a TLS handshake inside, by "+most+" packets"] = true
			}
		}
	}
}

// ask asks the observers.
func (s *seen) ask(ctx context.Context, relay netip.AddrPort) error {
	s.look()
	out, err := exec.CommandContext(ctx, "ndpiReader", "-v", "2", "-i", s.file).Output()
	if err != nil {
		return fmt.Errorf("ndpiReader: %w", err)
	}
	for _, l := range strings.Split(string(out), "\n") {
		if _, found, ok := strings.Cut(l, " <-> "+relay.String()+" "); ok {
			for _, label := range labels.FindAllStringSubmatch(found, -1) {
				if !varies.MatchString(label[1]) {
					s.said["nDPI "+label[1]] = true
				}
			}
		}
	}
	if !s.said["nDPI Encrypted"] {
		return errors.New("ndpiReader saw no flow to the relay")
	}
	// tshark's labels, and what it finds odd, but for TCP's own affairs.
	out, err = exec.CommandContext(ctx, "tshark", "-r", s.file, "-Y", fmt.Sprintf("tcp.port == %d && ip.addr == %s", relay.Port(), relay.Addr()), "-T", "fields", "-e", "_ws.col.Protocol").Output()
	if err != nil {
		return fmt.Errorf("tshark: %w", err)
	}
	for _, l := range strings.Fields(string(out)) {
		s.said["tshark "+l] = true
	}
	out, err = exec.CommandContext(ctx, "tshark", "-r", s.file, "-q", "-z", "expert").Output()
	if err != nil {
		return fmt.Errorf("tshark: %w", err)
	}
	for _, l := range strings.Split(string(out), "\n") {
		if words := strings.Fields(l); len(words) > 3 && words[2] != "TCP" && strings.Trim(words[0], "0123456789") == "" {
			s.said["tshark finds "+strings.Join(words[1:], " ")] = true
		}
	}
	return nil
}

// verdictOf compares, prints and judges.
func verdictOf(browser, busel, wrong *seen, level float64) error {
	fmt.Printf("| what | %s | %s | %s |\n|---|---|---|---|\n", browser.name, busel.name, wrong.name)
	fmt.Printf("| flows | %d | %d | %d |\n", len(browser.flows), len(busel.flows), len(wrong.flows))
	all := map[string]bool{}
	for _, s := range []*seen{browser, busel, wrong} {
		maps.Copy(all, s.said)
	}
	mark := map[bool]string{true: "yes", false: ""}
	var bad []error
	for _, what := range slices.Sorted(maps.Keys(all)) {
		fmt.Printf("| %s | %s | %s | %s |\n", what, mark[browser.said[what]], mark[busel.said[what]], mark[wrong.said[what]])
		if browser.said[what] != busel.said[what] {
			bad = append(bad, fmt.Errorf("only one of %s and %s: %s", browser.name, busel.name, what))
		}
	}
	r := rand.New(rand.NewPCG(1, 2))
	for _, t := range []struct {
		what   string
		of     func(*flow) sample.Row
		judged bool
	}{{"first 10 records", (*flow).first, true}, {"10 records after the Finished, not judged", (*flow).after, false}} {
		a := browser.rows(t.of)
		d, place, p := sample.Apart(a, busel.rows(t.of), deals, r)
		wd, wplace, wp := sample.Apart(a, wrong.rows(t.of), deals, r)
		fmt.Printf("| %s | | %.2f apart at %d, p = %.4f | %.2f at %d, p = %.4f |\n", t.what, d, place+1, p, wd, wplace+1, wp)
		if p < level && t.judged {
			bad = append(bad, fmt.Errorf("%s: the samples differ at record %d: %v, %v", t.what, place+1, tally(a, place), tally(busel.rows(t.of), place)))
		}
		if wp >= 0.01 {
			bad = append(bad, fmt.Errorf("%s: TOOTHLESS: %s was not told apart", t.what, wrong.name))
		}
	}
	return errors.Join(bad...)
}

// tally counts the sizes at a place.
func tally(rows []sample.Row, place int) map[int]int {
	m := map[int]int{}
	for _, r := range rows {
		if place < len(r) {
			m[r[place]]++
		} else {
			m[0]++
		}
	}
	return m
}
