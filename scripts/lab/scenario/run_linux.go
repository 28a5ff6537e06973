package scenario

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// Censor is what an experiment asks of the censor in the path.
type Censor interface {
	// Shape sets the properties of the path.
	Shape(Path)
	// Act makes the rules take effect, and no others. "NAME#2" is the rules NAME as
	// others: both may be in effect, each begun at its time.
	Act(rules []string) error
	// Hits is how many packets the rules acted on so far.
	Hits() uint64
	// Acted is how many flows the rules of that name acted on so far.
	Acted(name string) uint64
	// Busiest is the protocol of the flow to a relay that carries most now: "tcp",
	// "udp", or empty if there is none.
	Busiest() string
	// Sent is how many bytes of IP the client has sent so far.
	Sent() uint64
}

// Experiment is one subject's run of one scenario.
type Experiment struct {
	Scenario Scenario
	Subject  Subject
	Ground   *Ground
	Censor   Censor
	Origin   *Origin
	// OriginAt is the origin's address, for transfers that a censor's lies about
	// names must not disturb.
	OriginAt netip.Addr
	// Fetch, if set, asks for a page in another way than by curl.
	Fetch func(ctx context.Context) error
}

// Sizes and times of an experiment.
const (
	// A transfer fills a 20 Mbit/s path for 8 s: long enough for the censor to act
	// in its middle and for the subject to recover.
	transferSize = 20_000_000
	// quarter is how much must have passed before the censor acts.
	quarter  = transferSize / 4
	warmTime = 15 * time.Second
	// underWay bounds the first quarter, on the slowest path of the table.
	underWay = time.Minute
	// pauseBetween is how long a person, or a browser, waits before the next try.
	pauseBetween = 250 * time.Millisecond
)

// Run does the experiment. An error means that the lab failed, not the subject.
func (e *Experiment) Run(ctx context.Context) (Outcome, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := e.Scenario
	limit := cmp.Or(s.Limit, StandardLimit)
	o := Outcome{Page: Never}
	e.Censor.Shape(s.Path)
	if s.Cold {
		if err := e.act(); err != nil {
			return o, err
		}
	}
	if err := e.Subject.Start(ctx, e.Ground); err != nil {
		return o, fmt.Errorf("start: %w", err)
	}
	defer e.Subject.Stop()

	var down, up *transfer
	var transfers sync.WaitGroup
	begin := func() error {
		down, up = e.downloadOf(NewGauge(time.Now), transferSize), e.upload()
		return errors.Join(down.start(ctx, e, &transfers), up.start(ctx, e, &transfers))
	}
	if !s.Cold {
		if err := e.warm(ctx); err != nil {
			return o, fmt.Errorf("before the censor acts: %w", err)
		}
		if err := begin(); err != nil {
			return o, err
		}
		if err := await(ctx, underWay, func() bool { return down.gauge.Bytes() >= quarter && up.gauge.Bytes() >= quarter }); err != nil {
			return o, fmt.Errorf("the transfers do not get under way: %w", err)
		}
		if err := e.act(); err != nil {
			return o, err
		}
	}
	acted := time.Now()
	if s.Cold && s.Transfers {
		if err := begin(); err != nil {
			return o, err
		}
	}
	o.Page, o.PageError = e.newPages(ctx, acted, limit)
	if down != nil {
		select {
		case <-ended(&transfers):
		case <-time.After(time.Until(acted.Add(limit))):
		case <-ctx.Done():
			return o, ctx.Err()
		}
		o.Down, o.Up = down.result(), up.result()
	}
	report, err := e.Subject.Report(ctx)
	o.Says, o.Moves, o.Hits = report.Says, report.Moves, e.Censor.Hits()
	cancel()
	transfers.Wait()
	return o, err
}

// act makes the rules take effect, and the path what it is from then on.
func (e *Experiment) act() error {
	if e.Scenario.After != (Path{}) {
		e.Censor.Shape(e.Scenario.After)
	}
	return e.Censor.Act(e.Scenario.Rules)
}

// newPages asks for as many pages as the scenario says and returns the longest time
// that one took, or that one never came.
func (e *Experiment) newPages(ctx context.Context, begin time.Time, limit time.Duration) (slowest time.Duration, said string) {
	count := max(1, e.Scenario.Pages)
	until := begin.Add(limit)
	if !e.Scenario.Together {
		for range count {
			took, said := e.newPage(ctx, begin, time.Until(until))
			if took == Never {
				return Never, said
			}
			slowest = max(slowest, took)
			begin = time.Now()
		}
		return slowest, ""
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	for range count {
		wg.Go(func() {
			took, why := e.newPage(ctx, begin, limit)
			mu.Lock()
			defer mu.Unlock()
			if took == Never || slowest == Never {
				slowest, said = Never, said+why
				return
			}
			slowest = max(slowest, took)
		})
	}
	wg.Wait()
	return slowest, said
}

// warm fetches a page while nothing is wrong.
func (e *Experiment) warm(ctx context.Context) error {
	begin := time.Now()
	if page, said := e.newPage(ctx, begin, warmTime); page == Never {
		return fmt.Errorf("no page comes: %s", said)
	}
	return nil
}

// newPage asks for the listed site until its page is there, and returns how long
// after begin that was, or what was said of the first try if it never was.
func (e *Experiment) newPage(ctx context.Context, begin time.Time, limit time.Duration) (time.Duration, string) {
	said := ""
	for {
		left := time.Until(begin.Add(limit))
		if left <= 0 || ctx.Err() != nil {
			return Never, said
		}
		err := e.page(ctx, left)
		if err == nil {
			return time.Since(begin), ""
		}
		said = cmp.Or(said, err.Error())
		select {
		case <-time.After(pauseBetween):
		case <-ctx.Done():
		}
	}
}

// page asks once for the listed site's page and what belongs to it, on one
// connection, as a browser does.
func (e *Experiment) page(ctx context.Context, limit time.Duration) error {
	if e.Fetch != nil {
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		return e.Fetch(ctx)
	}
	scheme := "https"
	if e.Scenario.HTTP {
		scheme = "http"
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	site := scheme + "://" + ListedName
	page, err := e.curl(ctx, "--fail-early", "--max-time", fmt.Sprintf("%.2f", max(limit.Seconds(), 0.1)), site+"/", site+"/style.css")
	if err == nil && (!strings.Contains(page, genuine) || !strings.Contains(page, styled)) {
		err = errors.New(notGenuine)
	}
	return err
}

// curlArgs are what every curl of an experiment has.
func (e *Experiment) curlArgs(args ...string) []string {
	common := []string{"-sS", "--noproxy", "*", "--cacert", Authority(e.Ground.Dir)}
	if proxy := e.Subject.Proxy(); proxy != "" {
		common = []string{"-sS", "--proxy", "socks5h://" + proxy, "--cacert", Authority(e.Ground.Dir)}
	}
	return append(common, args...)
}

// curl runs curl inside and returns what it wrote; its complaint is the error.
func (e *Experiment) curl(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "curl", e.curlArgs(args...)...)
	var out, errOut strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := e.Ground.Client.Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if ctx.Err() != nil {
		return "", errors.New("no answer in time")
	}
	if err != nil {
		if said, _, _ := strings.Cut(strings.TrimSpace(errOut.String()), "\n"); said != "" {
			err = errors.New(said)
		}
		return "", err
	}
	return out.String(), nil
}

// transfer is a running curl and the gauge at the end where its bytes arrive.
type transfer struct {
	gauge  *Gauge
	args   []string
	stdin  io.Reader
	out    io.Writer
	spring *spring // where it is from, if it has no size
	whole  int64   // its size, if it has one; 0 is transferSize

	mu   sync.Mutex
	done bool
	err  error
}

// source is where transfers go: to the name that is on no list. Who connects
// directly is given the address, since a lie about a name would end the transfer
// before it begins.
func (e *Experiment) source(path string) []string {
	url := "https://" + OtherName + path
	if e.Subject.Proxy() == "" {
		return []string{"--resolve", OtherName + ":443:" + e.OriginAt.String(), url}
	}
	return []string{url}
}

// downloadOf takes size bytes into g; options are curl's.
func (e *Experiment) downloadOf(g *Gauge, size int64, options ...string) *transfer {
	args := append([]string{"--no-buffer"}, options...)
	return &transfer{gauge: g, out: g, args: append(args, e.source(fmt.Sprintf("/bytes/%d", size))...)}
}

func (e *Experiment) upload() *transfer {
	const id = "running"
	return &transfer{
		gauge: e.Origin.upload(id), out: io.Discard, stdin: contents(transferSize),
		args: append([]string{"-X", "POST", "-T", "-", "-H", "Expect:"}, e.source("/upload/"+id)...),
	}
}

// start starts curl; group is done when it has ended.
func (t *transfer) start(ctx context.Context, e *Experiment, group *sync.WaitGroup) error {
	cmd := exec.CommandContext(ctx, "curl", e.curlArgs(t.args...)...)
	cmd.Stdin, cmd.Stdout = t.stdin, t.out
	cmd.WaitDelay = time.Second // for the copying of what stdin still has
	if err := e.Ground.Client.Start(cmd); err != nil {
		return err
	}
	group.Go(func() {
		err := cmd.Wait()
		t.mu.Lock()
		defer t.mu.Unlock()
		t.done, t.err = true, err
		t.gauge.End()
	})
	return nil
}

func (t *transfer) result() Transfer {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := Transfer{Stall: t.gauge.Longest(), Bytes: t.gauge.Bytes()}
	switch {
	case !t.done && r.Stall < slowAfter:
		r.Fate = Slow
	case !t.done:
		r.Fate = Silent
	case t.err != nil:
		r.Fate = Broken
	case t.gauge.Sum() != sumOf(t.size()):
		r.Fate = Spoiled
	default:
		r.Fate = Survived
	}
	return r
}

// size is how much should have arrived.
func (t *transfer) size() int64 {
	if t.spring != nil {
		return t.spring.given.Load()
	}
	return cmp.Or(t.whole, transferSize)
}

// slowAfter tells a transfer that is slow at the end of the experiment from one
// that has fallen silent.
const slowAfter = 5 * time.Second

func ended(group *sync.WaitGroup) <-chan struct{} {
	c := make(chan struct{})
	go func() {
		group.Wait()
		close(c)
	}()
	return c
}

// await polls until ok, limit at most.
func await(ctx context.Context, limit time.Duration, ok func() bool) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(limit)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			return fmt.Errorf("not within %v", limit)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
