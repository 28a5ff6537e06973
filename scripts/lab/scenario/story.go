package scenario

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// Story is a course of events: what a censor did, one thing after another, in
// compressed time. Two residents live through it, one with the subject and one
// with a direct connection, each in a network of their own. Both ask for the news
// again and again, and both have a long download running.
type Story struct {
	Name   string
	Title  string
	Source string
	Stages []Stage
}

// Stage is a stretch of a story.
type Stage struct {
	Title string
	For   time.Duration
	Rules []string
	Path  Path
	// Passable: some way to a relay exists that the subject could use today, so
	// that pages must come.
	Passable bool
}

// Length is how long the story takes.
func (s Story) Length() (d time.Duration) {
	for _, stage := range s.Stages {
		d += stage.For
	}
	return d
}

// Stories returns all stories.
func Stories() []Story { return []Story{minsk2020()} }

// minsk2020 is Belarus, 9 to 12 August 2020, from the record in rows B1 to B10: a
// minute stands for some hours. What row says what is in the rule files.
func minsk2020() Story {
	const minute = time.Minute
	mobile := Path{Delay: 80 * time.Millisecond, Jitter: 20 * time.Millisecond, Loss: 0.02, Rate: 256e3}
	return Story{
		Name:   "minsk-2020",
		Title:  "Minsk, 9-12 August 2020",
		Source: "OONI 2020-09-16; Qurium and Human Constanta 2020-09-23; Psiphon 2020-08-20; Meduza and Bloomberg 2020-08; rows B1-B10",
		Stages: []Stage{
			{"Before: everything is open", 30 * time.Second, nil, Path{}, true},
			{"9 August, morning: news sites are reset while saying hello", minute, []string{"s1-rst-gfw"}, Path{}, true},
			{"Noon: name servers lie, and plain HTTP is led to look-alikes", minute, []string{"s1-rst-gfw", "dns-lie", "http-redirect"}, Path{}, true},
			{"Evening: VPN protocols are dropped, and whatever looks random", minute, []string{"s1-rst-gfw", "dns-lie", "s7-fully-encrypted", "s12-protocols"}, Path{}, true},
			{"20:00: connections to port 443 abroad are reset", 45 * time.Second, []string{"port443-rst", "dns-lie"}, mobile, true},
			{"Night: all TLS to abroad is filtered, mobile networks are slow", minute, []string{"s1-rst-all-tls", "dns-lie"}, mobile, true},
			{"10 August: the country is offline", 75 * time.Second, []string{"s12-shutdown"}, Path{}, false},
			{"A window of half a minute", 30 * time.Second, []string{"s1-rst-gfw", "dns-lie"}, mobile, true},
			{"11 August: offline again", minute, []string{"s12-shutdown"}, Path{}, false},
			{"A window of fifteen seconds", 15 * time.Second, []string{"s1-rst-gfw", "dns-lie"}, mobile, true},
			{"Offline until the morning", 45 * time.Second, []string{"s12-shutdown"}, Path{}, false},
			{"12 August: back at a quarter of the rate", minute, []string{"s1-rst-gfw", "dns-lie"}, Path{Rate: StandardRate / 4}, true},
		},
	}
}

// Chapter is what became of the two residents in one stage.
type Chapter struct {
	Stage   Stage
	Subject Day
	Direct  Day
}

// Told is what became of a story.
type Told struct {
	Chapters []Chapter
	// Subject and Direct are when pages of the listed site came, from the begin on.
	Subject, Direct []time.Duration
}

// Served is one minute of a story.
type Served struct {
	// Due is how much of the minute some way exists and has existed for long enough
	// that pages must come.
	Due             time.Duration
	Subject, Direct int // pages
}

// Minutes counts pages by the minute, the last of which may be shorter. Pages must
// come from within after the appearance of a way on.
func (s Story) Minutes(t Told, within time.Duration) []Served {
	minutes := make([]Served, (s.Length()+time.Minute-1)/time.Minute)
	for _, at := range t.Subject {
		minutes[min(int(at/time.Minute), len(minutes)-1)].Subject++
	}
	for _, at := range t.Direct {
		minutes[min(int(at/time.Minute), len(minutes)-1)].Direct++
	}
	var at, due time.Duration
	open := false
	for _, stage := range s.Stages {
		if stage.Passable && !open {
			due = at + within
		}
		open = stage.Passable
		end := at + stage.For
		for i := range minutes {
			begin := time.Duration(i) * time.Minute
			share := min(end, begin+time.Minute) - max(at, begin, due)
			if !open || share <= 0 {
				continue
			}
			minutes[i].Due += share
		}
		at = end
	}
	return minutes
}

// leastDue is how much of a minute a way must be due for to demand pages of it: a
// page is asked for every two seconds and takes one.
const leastDue = 4 * time.Second

// Barren lists the minutes without a page that should have had one.
func Barren(minutes []Served) (failures []string) {
	for i, m := range minutes {
		if m.Due >= leastDue && m.Subject == 0 {
			failures = append(failures, fmt.Sprintf("minute %d: no page came though there was a way for %s", i+1, show(m.Due)))
		}
	}
	return failures
}

// WriteMinutes writes how many pages came in each minute in which they must.
func WriteMinutes(w io.Writer, subject string, minutes []Served) error {
	var b strings.Builder
	fmt.Fprintf(&b, "\n| minute | a way is there for | %s: pages | direct: pages |\n|---|---|---|---|\n", subject)
	for i, m := range minutes {
		if m.Due > 0 {
			fmt.Fprintf(&b, "| %d | %s | %s | %d |\n", i+1, show(m.Due), strong(fmt.Sprint(m.Subject), m.Subject == 0 && m.Due >= leastDue), m.Direct)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Day is what one resident could do in a stage.
type Day struct {
	Asked, Got int           // pages of the listed site
	First      time.Duration // from the stage's begin to the first page; Never
	Bytes      int64         // of the running download
	Trouble    string        // the last complaint
}

// WriteStory writes the chapters as a Markdown table.
func WriteStory(w io.Writer, s Story, subject string, chapters []Chapter) error {
	var b strings.Builder
	fmt.Fprintf(&b, "## %s\n\nFrom: %s\n\n", s.Title, s.Source)
	fmt.Fprintf(&b, "| at | what happens | %s: pages | first after | running download | direct: pages | first after | running download | direct's trouble |\n", subject)
	b.WriteString("|---|---|---|---|---|---|---|---|---|\n")
	var at time.Duration
	for _, c := range chapters {
		fmt.Fprintf(&b, "| %d:%02d | %s | %s | %s |\n", int(at.Minutes()), int(at.Seconds())%60, c.Stage.Title, c.Subject.cells(), c.Direct.cells()+" | "+c.Direct.Trouble)
		at += c.Stage.For
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (d Day) cells() string {
	return fmt.Sprintf("%d of %d | %s | %.1f MB", d.Got, d.Asked, show(d.First), float64(d.Bytes)/1e6)
}

// Failures lists the stages in which the subject should have got a page and did
// not, or not within the time.
func Failures(chapters []Chapter, within time.Duration) (failures []string) {
	for _, c := range chapters {
		switch {
		case !c.Stage.Passable:
		case c.Subject.First == Never:
			failures = append(failures, fmt.Sprintf("%s: no page came (%s)", c.Stage.Title, c.Subject.Trouble))
		case c.Subject.First > within:
			failures = append(failures, fmt.Sprintf("%s: the first page took %s, wanted within %s", c.Stage.Title, show(c.Subject.First), show(within)))
		}
	}
	return failures
}
