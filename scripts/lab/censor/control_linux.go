package censor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"busel/internal/control"
	"busel/scripts/lab/censor/rule"
)

// Control answers requests of package control about a censor that runs:
//
//	status                                    -> [Status]
//	link     {"up": link, "down": link}       -> [Status]; one may be missing
//	rules    {"files": ["a.toml", ...]}       -> [Status]; these instead of the present ones
//	capture  {"file": "x.pcapng", "limit": bytes} -> [Status]; "" ends it
//
// A link is what [LinkText] says, such as {"delay": "50ms", "rate": 10000000}.
type Control struct {
	censor *Censor
	load   func(files []string) (Judge, error)

	mu      sync.Mutex // serializes changes
	files   []string
	capture *Capture
	missed  uint64
}

// NewControl returns a control of c. load reads files of rules; none mean that
// all may pass, and load is not asked. files are those of c's present judge.
func NewControl(c *Censor, load func(files []string) (Judge, error), files []string) *Control {
	return &Control{censor: c, load: load, files: files}
}

// Serve answers on the socket at path until ctx ends, and then ends the capture.
// ready, if not nil, is called once requests are accepted.
func (c *Control) Serve(ctx context.Context, path string, ready func(), log *slog.Logger) error {
	err := (&control.Server{Handler: c.handle, Log: log}).Serve(ctx, path, ready)
	c.mu.Lock()
	defer c.mu.Unlock()
	return errors.Join(err, c.endCapture())
}

// Status is the answer to every request.
type Status struct {
	Up            Way          `json:"up"`
	Down          Way          `json:"down"`
	Rules         []string     `json:"rules"`
	Counts        []rule.Count `json:"counts,omitempty"` // what each rule did
	Capture       string       `json:"capture,omitempty"`
	CaptureMissed uint64       `json:"capture_missed,omitempty"` // packets beyond the limit, of the last that ended
}

// Way is one direction of a [Status].
type Way struct {
	Link LinkText `json:"link"`
	Counters
}

// LinkText is [Link] with times as people write them.
type LinkText struct {
	Delay   string  `json:"delay,omitempty"` // such as "50ms"
	Jitter  string  `json:"jitter,omitempty"`
	Loss    float64 `json:"loss,omitempty"`
	Reorder float64 `json:"reorder,omitempty"`
	Rate    int64   `json:"rate,omitempty"`  // bit/s
	Queue   int     `json:"queue,omitempty"` // bytes
}

// Text is the link's text form.
func (l Link) Text() LinkText {
	return LinkText{l.Delay.String(), l.Jitter.String(), l.Loss, l.Reorder, l.Rate, l.Queue}
}

// Link parses and checks.
func (t LinkText) Link() (Link, error) {
	var l Link
	var err error
	if l.Delay, err = parseDuration(t.Delay); err != nil {
		return l, fmt.Errorf("delay: %w", err)
	}
	if l.Jitter, err = parseDuration(t.Jitter); err != nil {
		return l, fmt.Errorf("jitter: %w", err)
	}
	l.Loss, l.Reorder, l.Rate, l.Queue = t.Loss, t.Reorder, t.Rate, t.Queue
	return l, l.Check()
}

func parseDuration(text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	return time.ParseDuration(text)
}

// Requests' arguments.
type (
	// LinkArgs change links.
	LinkArgs struct {
		Up   *LinkText `json:"up,omitempty"`
		Down *LinkText `json:"down,omitempty"`
	}
	// RulesArgs replace the rules.
	RulesArgs struct {
		Files []string `json:"files"`
	}
	// CaptureArgs start a capture, or end it if File is "".
	CaptureArgs struct {
		File  string `json:"file"`
		Limit int64  `json:"limit,omitempty"`
	}
)

func (c *Control) handle(_ context.Context, r control.Request) (any, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var err error
	switch r.Op {
	case "status":
	case "link":
		err = decodeThen(r.Args, c.setLinks)
	case "rules":
		err = decodeThen(r.Args, c.setRules)
	case "capture":
		err = decodeThen(r.Args, c.setCapture)
	default:
		err = fmt.Errorf("unknown request %q: there are status, link, rules and capture", r.Op)
	}
	if err != nil {
		return nil, err
	}
	return c.status(), nil
}

// decodeThen passes on arguments without unknown fields.
func decodeThen[T any](text json.RawMessage, then func(T) error) error {
	var args T
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&args); err != nil {
		return fmt.Errorf("arguments: %w", err)
	}
	return then(args)
}

func (c *Control) status() Status {
	s := Status{Rules: c.files, CaptureMissed: c.missed}
	up, down := c.censor.Links()
	s.Up.Link, s.Down.Link = up.Text(), down.Text()
	s.Up.Counters, s.Down.Counters = c.censor.Counters()
	if j := c.censor.judge.Load(); j != nil {
		s.Counts = (*j).Counts()
	}
	if c.capture != nil {
		s.Capture = c.capture.Path()
	}
	return s
}

func (c *Control) setLinks(args LinkArgs) error {
	up, down := c.censor.Links()
	var err error
	if args.Up != nil {
		if up, err = args.Up.Link(); err != nil {
			return fmt.Errorf("up: %w", err)
		}
	}
	if args.Down != nil {
		if down, err = args.Down.Link(); err != nil {
			return fmt.Errorf("down: %w", err)
		}
	}
	return c.censor.SetLinks(up, down)
}

func (c *Control) setRules(args RulesArgs) error {
	var judge Judge
	if len(args.Files) > 0 {
		var err error
		if judge, err = c.load(args.Files); err != nil {
			return err
		}
	}
	c.censor.SetJudge(judge)
	c.files = args.Files
	return nil
}

func (c *Control) setCapture(args CaptureArgs) error {
	if args.File == "" {
		return c.endCapture()
	}
	next, err := StartCapture(args.File, args.Limit)
	if err != nil {
		return err
	}
	err = c.endCapture()
	c.capture = next
	c.censor.SetCapture(next)
	return err
}

// endCapture completes the file of the present capture, if there is one.
func (c *Control) endCapture() error {
	if c.capture == nil {
		return nil
	}
	c.censor.SetCapture(nil)
	var err error
	c.missed, err = c.capture.Close()
	c.capture = nil
	return err
}
