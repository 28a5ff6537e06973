package scenario

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"
)

// Times of a resident's habits in a story.
const (
	askEvery = 2 * time.Second
	// patience is how long a person looks at a page that does not come.
	patience = 10 * time.Second
	// longDownload, in bytes, does not end within any story.
	longDownload = 4 << 30
	// downloadRate, in bytes per second, leaves most of the path to the pages.
	downloadRate = 100_000
)

// Run lets two residents live through the story at the same time, each in the
// network of its experiment, and tells a chapter for each stage. notice is called
// when a stage begins.
func (s Story) Run(ctx context.Context, subject, direct *Experiment, notice func(Stage)) (t Told, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	residents := []*resident{newResident(subject), newResident(direct)}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for _, r := range residents {
		r.e.Censor.Shape(Path{})
		if err := r.e.Subject.Start(ctx, r.e.Ground); err != nil {
			return t, fmt.Errorf("start: %w", err)
		}
		defer r.e.Subject.Stop()
		wg.Go(func() { r.live(ctx) })
	}
	begin := time.Now()
	for _, r := range residents {
		r.since(begin)
	}
	for _, stage := range s.Stages {
		notice(stage)
		for _, r := range residents {
			r.e.Censor.Shape(stage.Path)
			if err := r.e.Censor.Act(stage.Rules); err != nil {
				return t, err
			}
			r.turn()
		}
		select {
		case <-time.After(stage.For):
		case <-ctx.Done():
			return t, context.Cause(ctx)
		}
		t.Chapters = append(t.Chapters, Chapter{Stage: stage, Subject: residents[0].turn(), Direct: residents[1].turn()})
	}
	t.Subject, t.Direct = residents[0].all(), residents[1].all()
	return t, nil
}

// resident asks for pages and has a download running.
type resident struct {
	e *Experiment

	mu    sync.Mutex
	begin time.Time // of the stage
	day   Day
	gauge *Gauge // of the download that runs
	seen  int64  // its bytes before the stage

	story time.Time // its begin
	pages []time.Duration
}

func newResident(e *Experiment) *resident {
	return &resident{e: e, gauge: NewGauge(time.Now), day: Day{First: Never}}
}

// since says when the story begins.
func (r *resident) since(begin time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.story, r.pages = begin, nil
}

// all are the pages that came since then.
func (r *resident) all() []time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.pages
}

// turn begins a stage and returns what became of the one before.
func (r *resident) turn() Day {
	r.mu.Lock()
	defer r.mu.Unlock()
	day := r.day
	now := r.gauge.Bytes()
	day.Bytes += now - r.seen
	r.begin, r.seen, r.day = time.Now(), now, Day{First: Never}
	return day
}

// live goes on until ctx ends.
func (r *resident) live(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { r.download(ctx) })
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for {
		wg.Go(func() { r.ask(ctx) })
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// ask counts in the stage in which the answer comes.
func (r *resident) ask(ctx context.Context) {
	err := r.e.page(ctx, patience)
	if ctx.Err() != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.day.Asked++
	if err != nil {
		r.day.Trouble = err.Error()
		return
	}
	r.day.Got++
	r.pages = append(r.pages, time.Since(r.story))
	if r.day.First == Never {
		r.day.First = time.Since(r.begin)
	}
}

// download begins again when it breaks, as a person would.
func (r *resident) download(ctx context.Context) {
	for ctx.Err() == nil {
		g := NewGauge(time.Now)
		r.mu.Lock()
		r.day.Bytes += r.gauge.Bytes() - r.seen
		r.gauge, r.seen = g, 0
		r.mu.Unlock()
		var one sync.WaitGroup
		t := r.e.downloadOf(g, longDownload, "--limit-rate", strconv.Itoa(downloadRate))
		if err := t.start(ctx, r.e, &one); err != nil {
			return
		}
		one.Wait()
		select {
		case <-time.After(askEvery):
		case <-ctx.Done():
		}
	}
}
