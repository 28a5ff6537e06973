package main

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"busel/obfs/records"
)

// TestMeasureDaily checks that a cover is visited once a day at most, that what
// fails changes nothing, and that an end is soon.
func TestMeasureDaily(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		begin := time.Now()
		var visits, told []time.Duration
		measure := func(ctx context.Context) (time.Duration, error) {
			visits = append(visits, time.Since(begin))
			switch len(visits) {
			case 1:
				return 75 * time.Second, nil
			case 2:
				return 0, errors.New("no answer")
			case 3:
				return 100 * time.Millisecond, nil
			}
			<-ctx.Done() // a cover that never closes
			return 0, nil
		}
		done := make(chan error)
		go func() {
			done <- measureDaily(ctx, measure, func(d time.Duration) { told = append(told, d) }, slog.New(slog.DiscardHandler))
		}()
		time.Sleep(4*(measureEvery+measureLater) + time.Hour)
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("ended with %v", err)
		}
		if want := []time.Duration{75 * time.Second, time.Second, measureIdle}; !slices.Equal(told[:min(3, len(told))], want) {
			t.Errorf("told %v, want %v", told, want)
		}
		if len(visits) < 4 || visits[0] < time.Minute {
			t.Errorf("visits at %v", visits)
		}
		for i := range visits[1:] {
			if d := visits[i+1] - visits[i]; d < 24*time.Hour {
				t.Errorf("visits %v apart", d)
			}
		}
	})
}

// TestLearnDaily checks that what fails is tried again, ever later, that a cover
// that returns is visited at once, and that an end is soon.
func TestLearnDaily(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		begin := time.Now()
		var visits []time.Duration
		var told []records.Cycle
		learn := func(context.Context) (records.Cycle, error) {
			visits = append(visits, time.Since(begin))
			switch len(visits) {
			case 3:
				return records.NginxHTTP2(), nil
			case 4:
				return records.GoHTTP2(), nil
			}
			return records.Cycle{}, errors.New("no answer")
		}
		returned, done := make(chan struct{}, 1), make(chan error)
		go func() {
			done <- learnDaily(ctx, 0, returned, learn, func(c records.Cycle) { told = append(told, c) }, slog.New(slog.DiscardHandler))
		}()
		time.Sleep(time.Hour)
		returned <- struct{}{}
		time.Sleep(measureEvery + measureLater + learnAgain/2)
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("ended with %v", err)
		}
		if want := []records.Cycle{records.NginxHTTP2(), records.GoHTTP2()}; !slices.Equal(told, want) {
			t.Errorf("told %+v, want %+v", told, want)
		}
		if want := []time.Duration{0, learnAgain, 3 * learnAgain, time.Hour}; len(visits) < 5 || !slices.Equal(visits[:4], want) {
			t.Errorf("visits at %v, want first %v", visits, want)
		}
	})
}
