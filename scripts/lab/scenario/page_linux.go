package scenario

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"busel/internal/front"
	"busel/scripts/lab/netns"
)

// look is how often the resident's page asks how things are, as page.js does.
const look = time.Second

// residentPage is the client's page, as the browser of its resident has it.
type residentPage struct {
	client http.Client
	state  string // address of what the page asks for
	key    string
	cookie *http.Cookie
}

// openPage follows a link to the page, which is good once.
func openPage(ctx context.Context, n *netns.Namespace, link string) (*residentPage, error) {
	p := &residentPage{client: http.Client{
		Transport: &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return n.Dial(ctx, network, address)
		}},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Timeout:       startTime,
	}}
	r, err := p.get(ctx, link)
	if err != nil {
		return nil, err
	}
	r.Body.Close()
	to, err := url.Parse(r.Header.Get("Location"))
	if err != nil {
		return nil, err
	}
	if len(r.Cookies()) != 1 || to.Fragment == "" {
		return nil, fmt.Errorf("the link to the page is answered with %s", r.Status)
	}
	at, err := url.Parse(link)
	if err != nil {
		return nil, err
	}
	p.state = at.ResolveReference(&url.URL{Path: "/api/state"}).String()
	p.cookie, p.key = r.Cookies()[0], to.Fragment
	return p, nil
}

func (p *residentPage) get(ctx context.Context, address string) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	if p.cookie != nil {
		r.AddCookie(p.cookie)
		r.Header.Set(front.KeyHeader, p.key)
	}
	return p.client.Do(r)
}

// sees asks once.
func (p *residentPage) sees(ctx context.Context) (s sight, err error) {
	r, err := p.get(ctx, p.state)
	if err != nil {
		return s, err
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		return s, errors.New("the page is told " + r.Status)
	}
	return s, json.NewDecoder(r.Body).Decode(&s)
}

// close lets go of the page.
func (p *residentPage) close() { p.client.CloseIdleConnections() }

// watched is the block as the page tells it.
type watched struct {
	after time.Duration // since the censor acted; Never
	as    string        // what it says
	err   error
}

// awaitWord asks as the page does, beginning at once, and returns when it tells of
// what happened since a time.
func (p *residentPage) awaitWord(ctx context.Context, since time.Time) watched {
	ctx, cancel := context.WithTimeout(ctx, lasting)
	defer cancel()
	tick := time.NewTicker(look)
	defer tick.Stop()
	last := "nothing"
	for {
		s, err := p.sees(ctx)
		if err != nil && ctx.Err() == nil {
			return watched{Never, "", err}
		}
		if as := s.tells(since); as != "" {
			return watched{time.Since(since), as, nil}
		}
		last = s.Phase
		select {
		case <-tick.C:
		case <-ctx.Done():
			return watched{Never, last, nil}
		}
	}
}

// sight lets the censor act while the page is open, and looks at what it says, how soon,
// and what the history has in the end.
func (b *Bout) sight(ctx context.Context) (t Trial, err error) {
	r, err := b.lead(ctx, &t)
	if err != nil || t.Moot != "" {
		return t, err
	}
	link, err := b.busel.command(ctx, b.Experiment.Ground.Client, "", "client", "page", "-dir", b.busel.clientDir, "-no-open")
	if err != nil {
		return t, err
	}
	p, err := openPage(ctx, b.Experiment.Ground.Client, link)
	if err != nil {
		return t, err
	}
	defer p.close()
	s, err := p.sees(ctx)
	if err != nil {
		return t, err
	}
	if s.Phase != "connected" {
		t.Moot = fmt.Sprintf("the page says %q before anything happens", s.Phase)
		return t, nil
	}
	for _, e := range s.History {
		if e.Kind == "moved" && e.Way == "" { // whose end would be told with that move
			t.Moot = "a connection was given up that is not over"
			return t, nil
		}
	}
	// The page asks once a second, and the censor does not wait for it.
	if err := pause(ctx, time.Duration(b.Rand.Int64N(int64(look)))); err != nil {
		return t, err
	}
	before, err := b.busel.Report(ctx)
	if err != nil {
		return t, err
	}
	r.mark()
	at := time.Now()
	if err := b.act(b.Row.rules...); err != nil {
		return t, err
	}
	word := make(chan watched, 1)
	go func() {
		var w watched
		if w.err = pause(ctx, time.Duration(b.Rand.Int64N(int64(look)))); w.err == nil {
			w = p.awaitWord(ctx, at)
		}
		word <- w
	}()
	if err := b.watch(ctx, &t, r, at, b.asks(ctx, at)); err != nil {
		return t, err
	}
	if b.Experiment.Censor.Hits() == 0 {
		t.Moot = "no packet was touched"
	}
	w := <-word
	if w.err != nil {
		return t, w.err
	}
	// What was cut is told when it is given up.
	fault := ""
	err = await(ctx, lasting, func() bool {
		s, err := p.sees(ctx)
		if fault = s.wrong(at, before.Active, b.Row.blame); err != nil {
			fault = err.Error()
		}
		return fault == ""
	})
	if ctx.Err() != nil {
		return t, err
	}
	right := 100.0
	if fault != "" {
		right, t.Note = 0, strings.TrimPrefix(t.Note+"; the history: "+fault, "; ")
	}
	t.Figures = append(t.Figures, Figure{pageSays, "s", seconds(w.after)}, Figure{historyRight, "%", right})
	t.Note = strings.TrimPrefix(t.Note+"; the page says: "+w.as, "; ")
	return t, nil
}
