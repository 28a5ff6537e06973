package scenario

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Bout is one trial of a [Row], in a network of its own.
type Bout struct {
	Row Row
	// Experiment has the ground of it; its Subject and its Scenario are the bout's.
	Experiment *Experiment
	// Index of Of trials, from 0.
	Index, Of int
	Long      bool // the long form
	// Rand decides about times and kinds of deaths.
	Rand *rand.Rand

	busel *Busel
}

// Times of a bout.
const (
	// settle is how long transfers run before the censor acts: enough for a spare.
	settle = 3 * time.Second
	// observe is how long a bout looks at least at what follows; what stalls is
	// looked at for longer, for lasting.
	observe = 6 * time.Second
	lasting = 45 * time.Second
	// runs is what has arrived of a transfer that is under way, in bytes.
	runs = 300_000
	// moving is how lately bytes have come of a transfer that does not stall.
	moving = 500 * time.Millisecond
	// trialRate is how long a rate is measured for, and beginning what is not
	// measured before it.
	trialRate = 8 * time.Second
	beginning = 5 * time.Second
	// steady is how long Busel has to find out which carriers carry most: it tries
	// one over each transport beside those in use.
	steady = 20 * time.Second
	// stopped is how long the client is stopped for.
	stopped = time.Minute
)

// Run makes the trial. An error means that the lab failed.
func (b *Bout) Run(ctx context.Context) (Trial, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	b.busel = &Busel{Relays: b.Row.Relays, Policy: b.Row.Policy}
	b.Experiment.Subject = b.busel
	b.Experiment.Censor.Shape(b.Row.Path)
	defer b.busel.Stop()
	if err := b.busel.StartRelays(ctx, b.Experiment.Ground); err != nil {
		return Trial{}, err
	}
	switch b.Row.play {
	case playHit:
		return b.hit(ctx, func() error { return b.act(append(slices.Clone(b.Row.then), b.Row.rules...)...) })
	case playAddress:
		return b.hit(ctx, b.Experiment.Ground.Net.Move)
	case playStop:
		return b.stop(ctx)
	case playBlackout:
		return b.blackout(ctx)
	case playPatience:
		return b.patience(ctx)
	case playCold:
		return b.cold(ctx)
	case playSlow:
		return b.slow(ctx)
	case playSlowCold:
		return b.slowCold(ctx)
	case playSmall:
		return b.small(ctx)
	case playBrowse:
		return b.browse(ctx)
	case playRates:
		return b.rates(ctx)
	case playDeaths:
		return b.deaths(ctx)
	case playIdle, playHeld:
		return b.idle(ctx)
	case playSight:
		return b.sight(ctx)
	}
	return Trial{}, fmt.Errorf("nobody knows how to play %q", b.Row.play)
}

func (b *Bout) act(rules ...string) error { return b.Experiment.Censor.Act(rules) }

// pause waits; the error is that of ctx.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// running are transfers without an end.
type running struct {
	down, up *transfer
	group    sync.WaitGroup
}

// flow begins a download and, if it is wanted, an upload, over plain HTTP: TLS would
// turn lost and doubled bytes into broken transfers.
func (b *Bout) flow(ctx context.Context, upload bool) (*running, error) {
	e := b.Experiment
	site := "http://" + OtherName
	if e.Subject.Proxy() == "" {
		site = "http://" + e.OriginAt.String()
	}
	id := strconv.FormatUint(b.Rand.Uint64(), 36)
	r := new(running)
	g := NewGauge(time.Now)
	r.down = &transfer{gauge: g, out: g, spring: e.Origin.spring(id), args: []string{"--no-buffer", site + "/spring/" + id}}
	if err := r.down.start(ctx, e, &r.group); err != nil {
		return nil, err
	}
	if !upload {
		return r, nil
	}
	s := newSpring()
	r.up = &transfer{
		gauge: e.Origin.upload(id), out: io.Discard, stdin: s, spring: s,
		args: []string{"-X", "POST", "-T", "-", "-H", "Expect:", site + "/upload/" + id},
	}
	return r, r.up.start(ctx, e, &r.group)
}

func (r *running) each(f func(*transfer)) {
	for _, t := range []*transfer{r.down, r.up} {
		if t != nil {
			f(t)
		}
	}
}

// all reports whether something holds for each.
func (r *running) all(f func(*transfer) bool) bool {
	ok := true
	r.each(func(t *transfer) { ok = ok && f(t) })
	return ok
}

func (r *running) mark() { r.each(func(t *transfer) { t.gauge.Mark() }) }

// moves reports whether bytes came lately of each; of one that has ended none will.
func (r *running) moves() bool {
	return r.all(func(t *transfer) bool { return time.Since(t.gauge.Last()) < moving })
}

// broken reports whether a transfer ended early.
func (r *running) broken() bool { return !r.all(func(t *transfer) bool { return !t.over() }) }

func (t *transfer) over() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.done
}

// finish lets the transfers come to their end and says what became of them. Stalls
// are those from the mark to now: the end is none.
func (r *running) finish(ctx context.Context) (down, up Transfer) {
	stalls := map[*transfer]time.Duration{}
	r.each(func(t *transfer) {
		stalls[t] = t.gauge.Longest()
		t.spring.end()
	})
	select {
	case <-ended(&r.group):
	case <-time.After(lasting):
	case <-ctx.Done():
	}
	result := func(t *transfer) Transfer {
		if t == nil {
			return Transfer{}
		}
		x := t.result()
		if x.Fate != Silent {
			x.Stall = stalls[t]
		}
		return x
	}
	return result(r.down), result(r.up)
}

// lead brings the client to where the censor acts: transfers run, over the wanted
// transport. moot is why it cannot be brought there.
func (b *Bout) lead(ctx context.Context, t *Trial) (*running, error) {
	if err := b.act(b.Row.first...); err != nil {
		return nil, err
	}
	if err := b.begin(ctx, t); err != nil || t.Moot != "" {
		return nil, err
	}
	r, err := b.flow(ctx, true)
	if err != nil {
		return nil, err
	}
	err = await(ctx, underWay, func() bool {
		return r.broken() || r.all(func(t *transfer) bool { return t.gauge.Bytes() >= runs })
	})
	if err != nil || r.broken() {
		if ctx.Err() == nil {
			t.Moot = "the transfers do not get under way"
			return nil, nil
		}
		return nil, err
	}
	if err := b.act(b.Row.then...); err != nil {
		return nil, err
	}
	if err := pause(ctx, settle); err != nil {
		return nil, err
	}
	began := time.Now()
	if took, said := b.Experiment.newPage(ctx, began, warmTime); took == Never {
		t.Moot = "no page comes before anything happens: " + said
	} else {
		t.Figures = append(t.Figures, Figure{"page before", "s", took.Seconds()})
	}
	if over := b.Experiment.Censor.Busiest(); b.Row.over != "" && over != b.Row.over {
		t.Moot = fmt.Sprintf("the transfers run over %q, not %s", over, b.Row.over)
	}
	return r, nil
}

// begin starts the client and fetches a page.
func (b *Bout) begin(ctx context.Context, t *Trial) error {
	if err := b.busel.StartClient(ctx, b.Experiment.Ground); err != nil {
		t.Moot = "the client does not start: " + err.Error()
		return ctx.Err()
	}
	if err := b.Experiment.warm(ctx); err != nil {
		t.Moot = err.Error()
	}
	return ctx.Err()
}

// hit lets something happen to running transfers and looks at what follows.
func (b *Bout) hit(ctx context.Context, strike func() error) (t Trial, err error) {
	r, err := b.lead(ctx, &t)
	if err != nil || t.Moot != "" {
		return t, err
	}
	r.mark()
	at := time.Now()
	if err := strike(); err != nil {
		return t, err
	}
	page := b.asks(ctx, at)
	err = b.watch(ctx, &t, r, at, page)
	if b.Row.play == playHit && b.Experiment.Censor.Hits() == 0 {
		t.Moot = "no packet was touched"
	}
	return t, err
}

// asked is what became of a page.
type asked struct {
	took time.Duration // since a time
	said string
}

// asks asks for a page from now on.
func (b *Bout) asks(ctx context.Context, since time.Time) <-chan asked {
	c := make(chan asked, 1)
	limit := max(time.Since(since), 0) + lasting // since may be yet to come
	go func() {
		took, said := b.Experiment.newPage(ctx, since, limit)
		c <- asked{took, said}
	}()
	return c
}

// watch looks at transfers since a time, and at a page, until all is well again or
// will not be, and takes the account.
func (b *Bout) watch(ctx context.Context, t *Trial, r *running, since time.Time, page <-chan asked) error {
	var p *asked
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		age := time.Since(since)
		if p != nil && (r.broken() || age >= observe && r.moves()) || age >= lasting && (p != nil || page == nil) {
			break
		}
		select {
		case a := <-page:
			p = &a
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	t.Page = Never
	if p != nil {
		t.Page = p.took
		if p.took == Never {
			t.Note = "no page: " + p.said
		}
	}
	report, err := b.busel.Report(ctx)
	t.Over = strings.Join(report.Active, "+")
	t.Down, t.Up = r.finish(ctx)
	return err
}

// stop stops the client's process for a time.
func (b *Bout) stop(ctx context.Context) (t Trial, err error) {
	r, err := b.lead(ctx, &t)
	if err != nil || t.Moot != "" {
		return t, err
	}
	if err := b.busel.process.Signal(syscall.SIGSTOP); err != nil {
		return t, err
	}
	if err := pause(ctx, stopped); err != nil {
		return t, err
	}
	r.mark()
	at := time.Now()
	if err := b.busel.process.Signal(syscall.SIGCONT); err != nil {
		return t, err
	}
	return t, b.watch(ctx, &t, r, at, b.asks(ctx, at))
}

// darkness is how long the blackout of this trial lasts: 5 to 60 s, evenly spread.
func (b *Bout) darkness() time.Duration {
	const least, most = 5 * time.Second, time.Minute
	switch {
	case b.Row.Long:
		return 10 * time.Minute
	case b.Of == 1:
		return 20 * time.Second
	}
	return least + (most-least)*time.Duration(b.Index)/time.Duration(b.Of-1)
}

// blackout lets nothing pass for a time. In its middle a page is asked for.
func (b *Bout) blackout(ctx context.Context) (t Trial, err error) {
	r, err := b.lead(ctx, &t)
	if err != nil || t.Moot != "" {
		return t, err
	}
	long := b.darkness()
	if err := b.act(b.Row.rules...); err != nil {
		return t, err
	}
	if err := pause(ctx, long/2); err != nil {
		return t, err
	}
	at := time.Now().Add(long - long/2)
	page := b.asks(ctx, at)
	if err := pause(ctx, time.Until(at)); err != nil {
		return t, err
	}
	if b.Experiment.Censor.Hits() == 0 {
		t.Moot = "no packet was touched"
	}
	r.mark()
	if err := b.act(); err != nil {
		return t, err
	}
	err = b.watch(ctx, &t, r, at, page)
	t.Note = fmt.Sprintf("after %s: download back in %s, page in %s; %s", show(long), show(t.Down.Stall), show(t.Page), t.Note)
	t.Note = strings.TrimSuffix(t.Note, "; ")
	return t, err
}

// patience measures what a client costs that cannot reach anybody, with transfers
// that wait.
func (b *Bout) patience(ctx context.Context) (t Trial, err error) {
	// What the first dials need is there by then; from then on nothing may pile up.
	const begins = 15 * time.Second
	long := time.Minute
	if b.Long {
		long = 10 * time.Minute
	}
	r, err := b.lead(ctx, &t)
	if err != nil || t.Moot != "" {
		return t, err
	}
	if err := b.act(b.Row.rules...); err != nil {
		return t, err
	}
	if err := pause(ctx, begins); err != nil {
		return t, err
	}
	before, err := usageOf(b.busel.process.Pid)
	if err != nil {
		return t, err
	}
	if err := pause(ctx, long); err != nil {
		return t, err
	}
	after, err := usageOf(b.busel.process.Pid)
	if err != nil {
		return t, err
	}
	t.Figures = append(t.Figures,
		Figure{"processor", "%", 100 * (after.busy - before.busy).Seconds() / long.Seconds()},
		Figure{"growth", "kB", float64(after.memory-before.memory) / 1000})
	r.mark()
	at := time.Now()
	if err := b.act(); err != nil {
		return t, err
	}
	return t, b.watch(ctx, &t, r, at, b.asks(ctx, at))
}

// usage is what a process has cost.
type usage struct {
	busy   time.Duration // of processors, in user and kernel mode
	memory int64         // resident, but for what is mapped from files, in bytes
}

// clockTick is the unit of times in /proc; it is 1/100 s on all of Go's Linux systems.
const clockTick = 10 * time.Millisecond

// usageOf reads /proc: proc_pid_stat(5), proc_pid_statm(5).
func usageOf(pid int) (u usage, err error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return u, err
	}
	statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return u, err
	}
	return parseUsage(string(stat), string(statm))
}

func parseUsage(stat, statm string) (u usage, err error) {
	// The program's name is in parentheses and may have any characters.
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	pages := strings.Fields(statm)
	if len(fields) < 13 || len(pages) < 3 {
		return u, errors.New("/proc: too few fields")
	}
	user, err1 := strconv.ParseInt(fields[11], 10, 64)
	system, err2 := strconv.ParseInt(fields[12], 10, 64)
	resident, err3 := strconv.ParseInt(pages[1], 10, 64)
	mapped, err4 := strconv.ParseInt(pages[2], 10, 64)
	return usage{time.Duration(user+system) * clockTick, (resident - mapped) * int64(os.Getpagesize())}, errors.Join(err1, err2, err3, err4)
}

// cold measures how long a page takes from the client's start, under the rules.
func (b *Bout) cold(ctx context.Context) (t Trial, err error) {
	if err := b.act(b.Row.rules...); err != nil {
		return t, err
	}
	at := time.Now()
	if err := b.busel.StartClient(ctx, b.Experiment.Ground); err != nil {
		t.Moot = "the client does not start: " + err.Error()
		return t, ctx.Err()
	}
	var said string
	if t.Page, said = b.Experiment.newPage(ctx, at, lasting); t.Page == Never {
		t.Note = "no page: " + said
	}
	if b.Experiment.Censor.Hits() == 0 {
		t.Moot = "no packet was touched"
	}
	report, err := b.busel.Report(ctx)
	t.Over = strings.Join(report.Active, "+")
	return t, err
}

// meter notes how many bytes of a transfer had come by which time.
type meter struct {
	g    *Gauge
	seen []reading
}

type reading struct {
	at    time.Time
	bytes int64
}

func (m *meter) read(now time.Time) { m.seen = append(m.seen, reading{now, m.g.Bytes()}) }

// rate is that of the last span, in Mbit/s; 0 if it has not been watched for as long.
func (m *meter) rate(span time.Duration) float64 {
	if len(m.seen) == 0 {
		return 0
	}
	last := m.seen[len(m.seen)-1]
	for _, r := range slices.Backward(m.seen) {
		if took := last.at.Sub(r.at); took >= span {
			return float64(last.bytes-r.bytes) * 8 / 1e6 / took.Seconds()
		}
	}
	return 0
}

// sampling is how often a rate is looked at, and window the span that it is of.
const (
	sampling = 100 * time.Millisecond
	window   = time.Second
)

// rateOf watches a transfer for some time and returns the rate of the last span.
func rateOf(ctx context.Context, g *Gauge, long, span time.Duration) (float64, error) {
	m := &meter{g: g}
	m.read(time.Now())
	err := pause(ctx, long-span)
	m.read(time.Now())
	if err == nil {
		err = pause(ctx, span)
	}
	m.read(time.Now())
	return m.rate(span), err
}

// recovers waits until a transfer has had half of a rate for a second, all of it
// after since, and returns how long that took: without end if it does not come.
func recovers(ctx context.Context, g *Gauge, since time.Time, whole float64) float64 {
	m := &meter{g: g}
	for time.Since(since) < lasting && ctx.Err() == nil {
		m.read(time.Now())
		if m.rate(window) >= whole/2 {
			return time.Since(since).Seconds()
		}
		_ = pause(ctx, sampling) // the loop looks
	}
	return math.Inf(1)
}

// slow measures how soon a download has half of its rate again.
func (b *Bout) slow(ctx context.Context) (t Trial, err error) {
	r, err := b.lead(ctx, &t)
	if err != nil || t.Moot != "" {
		return t, err
	}
	whole, err := rateOf(ctx, r.down.gauge, settle, settle)
	if err != nil {
		return t, err
	}
	r.mark()
	at := time.Now()
	if err := b.act(append(slices.Clone(b.Row.then), b.Row.rules...)...); err != nil {
		return t, err
	}
	t.Figures = append(t.Figures, Figure{"rate before", "Mbit/s", whole}, Figure{halfAgain, "s", recovers(ctx, r.down.gauge, at, whole)})
	if b.Experiment.Censor.Hits() == 0 {
		t.Moot = "no packet was touched"
	}
	report, err := b.busel.Report(ctx)
	t.Over = strings.Join(report.Active, "+")
	t.Down, t.Up = r.finish(ctx)
	return t, err
}

// slowCold does so for a client that starts under the rules; another client, before
// them, shows the whole rate.
func (b *Bout) slowCold(ctx context.Context) (t Trial, err error) {
	if err := b.act(); err != nil {
		return t, err
	}
	if err := b.begin(ctx, &t); err != nil || t.Moot != "" {
		return t, err
	}
	r, err := b.flow(ctx, false)
	if err != nil {
		return t, err
	}
	whole, err := rateOf(ctx, r.down.gauge, beginning+settle, settle)
	if err != nil {
		return t, err
	}
	r.finish(ctx)
	b.busel.StopClient()

	if err := b.act(b.Row.rules...); err != nil {
		return t, err
	}
	if err := b.busel.StartClient(ctx, b.Experiment.Ground); err != nil {
		return t, err
	}
	at := time.Now()
	if r, err = b.flow(ctx, false); err != nil {
		return t, err
	}
	t.Figures = append(t.Figures, Figure{"rate before", "Mbit/s", whole}, Figure{halfAgain, "s", recovers(ctx, r.down.gauge, at, whole)})
	if b.Experiment.Censor.Hits() == 0 {
		t.Moot = "no packet was touched"
	}
	report, err := b.busel.Report(ctx)
	t.Over = strings.Join(report.Active, "+")
	t.Down, t.Up = r.finish(ctx)
	return t, err
}

// smallSize is what is fetched where flows are short, in bytes.
const smallSize = 1_000_000

// small fetches something under rules that hold from the start, and then a page.
func (b *Bout) small(ctx context.Context) (t Trial, err error) {
	const limit = 2 * time.Minute
	if err := b.act(b.Row.rules...); err != nil {
		return t, err
	}
	if err := b.busel.StartClient(ctx, b.Experiment.Ground); err != nil {
		t.Moot = "the client does not start: " + err.Error()
		return t, ctx.Err()
	}
	e := b.Experiment
	var group sync.WaitGroup
	g := NewGauge(time.Now)
	at := time.Now()
	one := e.downloadOf(g, smallSize)
	one.whole = smallSize
	if err := one.start(ctx, e, &group); err != nil {
		return t, err
	}
	took := math.Inf(1)
	select {
	case <-ended(&group):
		took = time.Since(at).Seconds()
	case <-time.After(limit):
	}
	if t.Down = one.result(); t.Down.Fate != Survived {
		took = math.Inf(1)
		t.Note = fmt.Sprintf("%d of %d bytes came", t.Down.Bytes, smallSize)
	}
	t.Figures = append(t.Figures, Figure{"1 MB after", "s", took})
	var said string
	if t.Page, said = e.newPage(ctx, time.Now(), lasting); t.Page == Never {
		t.Note = strings.TrimPrefix(t.Note+"; no page: "+said, "; ")
	}
	if e.Censor.Hits() == 0 {
		t.Moot = "no packet was touched"
	}
	report, err := b.busel.Report(ctx)
	t.Over = strings.Join(report.Active, "+")
	return t, err
}

// kill is the rules that end the connection in use, in one of the ways that there
// are for its transport; every call's are others.
func (b *Bout) kill(number int, ways []string) string {
	way := ways[b.Rand.IntN(len(ways))]
	if way == resets && b.Experiment.Censor.Busiest() != "tcp" {
		way = ways[len(ways)-1]
	}
	return fmt.Sprintf("%s#%d", way, number)
}

// browse asks for pages while connections die, under rules that must not be
// triggered.
func (b *Bout) browse(ctx context.Context) (t Trial, err error) {
	const every = 3 * time.Second
	// In the short form all die within a minute: one more than the rules let pass.
	long, mortal, deaths := 2*time.Minute, time.Minute, 4
	switch {
	case b.Long:
		long, mortal, deaths = 30*time.Minute, 30*time.Minute, 30
	case b.Of >= 10:
		long, mortal, deaths = 10*time.Minute, 10*time.Minute, 10
	}
	rules := slices.Clone(b.Row.rules)
	if err := b.act(rules...); err != nil {
		return t, err
	}
	if err := b.begin(ctx, &t); err != nil || t.Moot != "" {
		return t, err
	}
	count := int(long / every)
	fatal := b.Rand.Perm(int(mortal / every))[:deaths] // the pages that connections die under
	var mu sync.Mutex
	var took []float64
	var group sync.WaitGroup
	touched := uint64(0)
	for i := range count {
		next := time.Now().Add(every)
		group.Go(func() {
			begin := time.Now()
			page := math.Inf(1)
			if err := b.Experiment.page(ctx, patience); err == nil {
				page = time.Since(begin).Seconds()
			}
			mu.Lock()
			defer mu.Unlock()
			took = append(took, page)
		})
		if n := slices.Index(fatal, i); n >= 0 {
			if err := pause(ctx, time.Duration(50+b.Rand.IntN(200))*time.Millisecond); err != nil {
				return t, err
			}
			kill := b.kill(n, []string{resets, drops})
			if err := b.act(append(slices.Clone(rules), kill)...); err != nil {
				return t, err
			}
			if err := pause(ctx, every/2); err != nil {
				return t, err
			}
			touched += b.Experiment.Censor.Acted(kill)
		}
		if err := pause(ctx, time.Until(next)); err != nil {
			return t, err
		}
	}
	group.Wait()
	pages := spread(took)
	came := 0
	for _, p := range took {
		if !math.IsInf(p, 1) {
			came++
		}
	}
	freezes := uint64(0)
	for _, rule := range rules {
		freezes += b.Experiment.Censor.Acted(rule)
	}
	t.Figures = []Figure{
		{"freezes", "", float64(freezes)}, {"pages that came", "%", 100 * float64(came) / float64(len(took))},
		{"page p50", "s", pages.P50}, {"page p95", "s", pages.P95}, {"deaths", "", float64(touched)},
	}
	report, err := b.busel.Report(ctx)
	t.Over = strings.Join(report.Active, "+")
	return t, err
}

// rates measures downloads under several policies, one after another, each with a new
// client, and at last without a proxy.
func (b *Bout) rates(ctx context.Context) (t Trial, err error) {
	if err := b.act(b.Row.rules...); err != nil {
		return t, err
	}
	measure := func(name string) error {
		r, err := b.flow(ctx, false)
		if err != nil {
			return err
		}
		rate, err := rateOf(ctx, r.down.gauge, steady+trialRate, trialRate)
		t.Figures = append(t.Figures, Figure{name, "Mbit/s", rate})
		down, _ := r.finish(ctx)
		if down.Fate != Survived || t.Down.Fate == None {
			t.Down = Transfer{Fate: down.Fate, Bytes: down.Bytes}
		}
		return err
	}
	for _, policy := range b.Row.policies {
		b.busel.Policy = policy
		var one Trial
		if err := b.begin(ctx, &one); err != nil {
			return t, err
		}
		if one.Moot != "" {
			t.Note = strings.TrimPrefix(t.Note+"; policy "+policy+": "+one.Moot, "; ")
			b.busel.StopClient()
			continue
		}
		if err := measure(policy); err != nil {
			return t, err
		}
		report, err := b.busel.Report(ctx)
		if err != nil {
			return t, err
		}
		t.Over = cmp.Or(t.Over, strings.Join(report.Active, "+"))
		b.busel.StopClient()
	}
	b.Experiment.Subject = Bare{}
	return t, measure(Direct)
}

// deaths lets connections die under transfers, ten times for each trial that was
// asked for, at random times and in random ways; five times in a row TCP is blocked
// meanwhile.
func (b *Bout) deaths(ctx context.Context) (t Trial, err error) {
	const (
		kept  = 4 // that are in effect together
		least = 64_000
		limit = time.Minute
	)
	r, err := b.lead(ctx, &t)
	if err != nil || t.Moot != "" {
		return t, err
	}
	count := 10 * b.Of
	var stalls []float64
	by := map[string]int{}
	var rules []string
	for i := range count {
		over := b.Experiment.Censor.Busiest()
		kill := b.kill(i, []string{resets, dropsDown, drops})
		if rules = append(rules, kill); len(rules) > kept {
			rules = rules[1:]
		}
		effect := rules
		if i%10 >= 5 { // over UDP, as far as the client's own choice is not
			effect = append([]string{"s12-no-tcp"}, rules...)
		}
		r.mark()
		down, up := r.down.gauge.Bytes(), r.up.gauge.Bytes()
		if err := b.act(effect...); err != nil {
			return t, err
		}
		if err := pause(ctx, 500*time.Millisecond+time.Duration(b.Rand.IntN(2500))*time.Millisecond); err != nil {
			return t, err
		}
		if b.Experiment.Censor.Acted(kill) > 0 {
			by[over]++
		}
		err := await(ctx, limit, func() bool {
			return r.broken() || r.moves() && r.down.gauge.Bytes() > down+least && r.up.gauge.Bytes() > up+least
		})
		stalls = append(stalls, r.down.gauge.Longest().Seconds())
		if err != nil || r.broken() {
			t.Note = fmt.Sprintf("death %d of %d (%s, over %s): the transfers do not go on", i+1, count, kill, over)
			break
		}
	}
	s := spread(stalls)
	t.Figures = append(t.Figures, Figure{"deaths", "", float64(by["tcp"] + by["udp"])}, Figure{"of UDP", "", float64(by["udp"])},
		Figure{"stall p50", "s", s.P50}, Figure{"stall p95", "s", s.P95}, Figure{"stall max", "s", s.Max})
	if by["tcp"]+by["udp"] == 0 {
		t.Moot = "no packet was touched"
	}
	report, err := b.busel.Report(ctx)
	t.Over = strings.Join(report.Active, "+")
	t.Down, t.Up = r.finish(ctx)
	return t, err
}

// idle measures what a client sends when nothing is asked of it.
func (b *Bout) idle(ctx context.Context) (t Trial, err error) {
	const quiet = 30 * time.Second
	long := 2 * time.Minute
	if b.Long {
		long = 10 * time.Minute
	}
	if err := b.begin(ctx, &t); err != nil || t.Moot != "" {
		return t, err
	}
	if b.Row.play == playHeld {
		e := b.Experiment
		held := &transfer{gauge: NewGauge(time.Now), out: io.Discard, args: []string{"http://" + OtherName + "/held"}}
		var group sync.WaitGroup
		defer group.Wait()
		holding, cancel := context.WithCancel(ctx)
		defer cancel()
		if err := held.start(holding, e, &group); err != nil {
			return t, err
		}
		defer func() {
			if held.over() {
				t.Note = "the stream that was to be idle ended"
				t.Down.Fate = Broken
			}
		}()
	}
	if err := pause(ctx, quiet); err != nil {
		return t, err
	}
	before := b.Experiment.Censor.Sent()
	if err := pause(ctx, long); err != nil {
		return t, err
	}
	sent := float64(b.Experiment.Censor.Sent() - before)
	t.Figures = append(t.Figures, Figure{"sends", "kB/min", sent / 1000 / long.Minutes()})
	report, err := b.busel.Report(ctx)
	t.Over = strings.Join(report.Active, "+")
	return t, err
}
