package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"busel/scripts/lab/scenario"
)

// bout is one trial of one row.
type bout struct {
	row, index int
}

// runRotation plays the second table.
func (o *options) runRotation(ctx context.Context) error {
	if o.socks != "" {
		return errors.New("rotation is about Busel: -client and -socks are for scenarios")
	}
	rows, err := o.chosenRows()
	if err != nil {
		return err
	}
	return o.runRows(ctx, rows, o.json)
}

// runShort plays the short selection of both tables.
func (o *options) runShort(ctx context.Context) error {
	picked, err := o.chosen()
	if err != nil {
		return err
	}
	err = o.runAll(ctx, picked)
	if o.socks != "" || o.rows != "" {
		return err
	}
	rows, wrong := o.chosenRows()
	fmt.Println()
	return errors.Join(err, wrong, o.runRows(ctx, rows, ""))
}

// runRows plays rows, some trials at a time, the costly ones fewer, and writes the
// results for programs to a file, if it has a name.
func (o *options) runRows(ctx context.Context, rows []scenario.Row, file string) error {
	trials := make([][]scenario.Trial, len(rows))
	failures := make([][]error, len(rows))
	var all []bout
	for i, r := range rows {
		n := r.Trials(o.times)
		trials[i], failures[i] = make([]scenario.Trial, n), make([]error, n)
		for k := range n {
			all = append(all, bout{i, k})
		}
	}
	room := make(chan struct{}, o.parallel*scenario.FullCost)
	var wg sync.WaitGroup
	for _, b := range all {
		r := rows[b.row]
		for range r.Cost() { // by this goroutine only: two that wait for more would block each other
			select {
			case room <- struct{}{}:
			case <-ctx.Done():
			}
		}
		if ctx.Err() != nil {
			break
		}
		wg.Go(func() {
			defer func() {
				for range r.Cost() {
					<-room
				}
			}()
			began := time.Now()
			t, err := o.bout(ctx, r, b.index, len(trials[b.row]))
			trials[b.row][b.index], failures[b.row][b.index] = t, err
			fmt.Fprintf(os.Stderr, "%-20s %3d  %5s  %s\n", r.Name, b.index+1, time.Since(began).Round(time.Second), toldTrial(r, t, err))
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	var tallies []scenario.Tally
	var bad error
	for i, r := range rows {
		if err := errors.Join(failures[i]...); err != nil {
			bad = errors.Join(bad, fmt.Errorf("%s: %w", r.Name, err))
			continue // what could not be run has no verdict
		}
		tallies = append(tallies, scenario.JudgeRow(r, trials[i]))
	}
	bad = errors.Join(bad, scenario.WriteRotation(os.Stdout, tallies))
	if file != "" {
		bad = errors.Join(bad, writeFile(file, tallies, scenario.WriteRotationJSON))
	}
	missed := 0
	for _, t := range tallies {
		if t.Verdict.Bad() {
			missed++
		}
	}
	if missed > 0 {
		bad = errors.Join(bad, fmt.Errorf("%d of %d rows were not as wanted", missed, len(tallies)))
	}
	return bad
}

// toldTrial is a line about a trial.
func toldTrial(r scenario.Row, t scenario.Trial, err error) string {
	if err != nil {
		return "the lab failed: " + err.Error()
	}
	return scenario.JudgeRow(r, []scenario.Trial{t}).String()
}

// bout puts up a bed and makes one trial in it.
func (o *options) bout(ctx context.Context, r scenario.Row, index, of int) (t scenario.Trial, err error) {
	file := r.Name
	if of > 1 {
		file = fmt.Sprintf("%s-%d", r.Name, index+1)
	}
	b, err := o.bed(ctx, file, scenario.Scenario{Cover: r.Cover})
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, o.keepLogs(b, file), b.close()) }()
	one := &scenario.Bout{
		Row: r, Experiment: experimentIn(b, scenario.Scenario{}, nil),
		Index: index, Of: max(of, o.times), Long: o.long, Rand: rand.New(rand.NewPCG(1, uint64(index))),
	}
	return one.Run(ctx)
}
