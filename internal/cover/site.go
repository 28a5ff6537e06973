package cover

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"fmt"
	"html"
	"html/template"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	texttemplate "text/template"
	"time"
)

//go:embed templates
var templates embed.FS

// site is everything that the templates show. It is a function of the seed and
// the name alone: no clock and no other randomness, so that an install shows
// the same bytes after every restart.
type site struct {
	Name, Line, Address, Mail string
	Heading                   string // of the home page
	Lead, NewsTitle           string
	Intro, About, Contact     []string
	Items                     []item
	Posts, Latest             []news
	Pictures                  []picture
	Menu                      []link
	Style, News               string
	Year                      int
	ShowLine                  bool

	classes map[string]string
	rng     *rand.Rand
	fill    *strings.Replacer
	paths   paths
	edited  time.Time // when the design was last changed
}

type link struct{ Path, Title string }

type news struct {
	post
	Path    string
	Date    time.Time
	Author  string
	Picture *picture
}

// Title and Text lift the embedded fields for the templates.
func (n news) Title() string  { return n.title }
func (n news) Text() []string { return n.text }

// The templates read items by these names.
func (i item) Name() string   { return i.name }
func (i item) Detail() string { return i.detail }
func (i item) Note() string   { return i.note }

type picture struct {
	Path, Caption string
	Width, Height int
	data          []byte
}

// paths is how an install names its files.
type paths struct {
	style, images, news string
	ending              string // of pages: ".html" or "/"
}

func (p paths) page(name string) string { return "/" + name + p.ending }

// file is one thing that the site serves.
type file struct {
	path, kind string // kind is the Content-Type
	data       []byte
	modified   time.Time
}

func pick[T any](rng *rand.Rand, from []T) T { return from[rng.IntN(len(from))] }

// draw returns n different elements in random order, all if there are fewer.
func draw[T any](rng *rand.Rand, from []T, n int) []T {
	out := make([]T, 0, n)
	for _, i := range rng.Perm(len(from))[:min(n, len(from))] {
		out = append(out, from[i])
	}
	return out
}

// Class is the name that this install's style sheet has for a class.
func (s *site) Class(name string) string { return s.classes[name] }

func newSite(host string, seed [32]byte) *site {
	// A hash, so that the seed itself cannot be told from what the site shows.
	rng := rand.New(rand.NewChaCha8(sha256.Sum256(append([]byte("busel cover site 1"), seed[:]...))))
	s := &site{rng: rng, classes: map[string]string{}}

	place := pick(rng, firstHalves) + pick(rng, secondHalves)
	who := draw(rng, people, 2)
	street := pick(rng, streets)
	t := pick(rng, trades)
	s.fill = strings.NewReplacer("{place}", place, "{river}", pick(rng, rivers), "{first}", who[0], "{second}", who[1],
		"{day}", pick(rng, days), "{street}", street)
	s.Name, s.Line = s.text(pick(rng, t.names)), s.text(pick(rng, t.lines))
	s.Address = fmt.Sprintf("%d %s, %s", 1+rng.IntN(60), street, place)
	if rng.IntN(2) == 0 {
		s.Address = street + ", " + place
	}
	if net.ParseIP(host) == nil && strings.Contains(host, ".") {
		s.Mail = pick(rng, []string{"hello", "info", "post", "mail", "contact", strings.ToLower(who[1])}) + "@" + host
	}
	s.Heading = s.Line
	if s.ShowLine = rng.IntN(2) == 0; s.ShowLine {
		s.Heading = pick(rng, []string{"Welcome", "Hello", "Welcome to " + s.Name, "Good to see you"})
	}
	s.Intro = s.texts(draw(rng, t.intro, 3+rng.IntN(2)))
	s.About = s.texts(append(t.about[:1:1], draw(rng, t.about[1:], 2+rng.IntN(3))...))
	s.Contact = s.texts(t.contact)
	s.Lead = s.text(pick(rng, t.lead))
	s.NewsTitle = pick(rng, []string{t.noNews, "News", "Notes", "Journal"})
	for _, n := range slices.Sorted(slices.Values(rng.Perm(len(t.items))[:5+rng.IntN(3)])) {
		i := t.items[n]
		i.name, i.detail = s.text(i.name), s.text(i.detail)
		if _, err := strconv.ParseFloat(i.note, 64); err == nil && t.offer != "Programme" {
			i.note = "£" + i.note
		} else if err == nil {
			i.note += " miles"
		}
		s.Items = append(s.Items, i)
	}

	s.paths = paths{
		style:  pick(rng, []string{"/style.css", "/css/style.css", "/css/main.css", "/assets/site.css", "/static/style.css", "/assets/css/styles.css"}),
		images: pick(rng, []string{"/images/", "/img/", "/media/", "/assets/images/", "/pictures/", "/static/img/"}),
		news:   pick(rng, []string{"news", "notes", "journal", "blog", "diary"}),
		ending: pick(rng, []string{".html", "/"}),
	}
	s.Style, s.News = s.paths.style, s.paths.page(s.paths.news)
	prefix := pick(rng, []string{"", "c-", "site-", "l-", "x"})
	for name, words := range map[string][]string{
		"top": {"top", "header", "masthead", "banner"}, "in": {"in", "wrap", "container", "inner", "page"},
		"name": {"name", "brand", "logo", "site-title"}, "line": {"line", "tagline", "claim", "subtitle"},
		"hero": {"hero", "cover", "wide", "opening"}, "lead": {"lead", "intro", "welcome"},
		"cards": {"cards", "latest", "tiles", "columns"}, "date": {"date", "when", "meta"},
		"list": {"list", "archive", "entries"}, "note": {"note", "price", "last"}, "foot": {"foot", "footer", "bottom", "colophon"},
	} {
		// Not from rng: the order of a map is not a function of the seed.
		sum := sha256.Sum256(append([]byte(name), seed[:]...))
		s.classes[name] = prefix + words[int(sum[0])%len(words)]
	}
	s.Menu = []link{
		{"/", pick(rng, []string{"Home", "Start", "Welcome"})},
		{s.paths.page("about"), pick(rng, []string{"About", "About us", "Who we are"})},
		{s.paths.page(strings.ReplaceAll(strings.ToLower(t.offer), " ", "-")), t.offer},
		{s.News, s.NewsTitle},
		{s.paths.page("contact"), pick(rng, []string{"Contact", "Find us", "Contact us"})},
	}

	// The last entry is from before some day between March 2025 and September 2026:
	// small sites rest. A fixed span, because a clock would make an install's
	// dates move.
	date := time.Date(2025, time.March, 1, 7, 0, 0, 0, time.UTC).AddDate(0, 0, rng.IntN(570))
	for _, p := range draw(rng, t.posts, 4+rng.IntN(3)) {
		p.text = s.texts(p.text)
		at := date.AddDate(0, 0, -rng.IntN(300)).Add(time.Duration(rng.IntN(13*3600)) * time.Second)
		for p.month != 0 && at.Month() != p.month {
			at = at.AddDate(0, 0, -11)
		}
		n := news{post: p, Date: at, Author: pick(rng, who)}
		n.Path = "/" + s.paths.news + "/" + slug(p.title) + s.paths.ending
		s.Posts = append(s.Posts, n)
	}
	slices.SortFunc(s.Posts, func(a, b news) int { return b.Date.Compare(a.Date) })
	s.Year = s.Posts[0].Date.Year()
	s.Latest = s.Posts[:min(len(s.Posts), 2+rng.IntN(2))]
	s.edited = s.Posts[len(s.Posts)-1].Date.AddDate(0, 0, -30-rng.IntN(500)).Add(time.Duration(rng.IntN(12*3600)) * time.Second)
	for i, caption := range t.pictures[:3] {
		p := picture{Caption: s.text(caption), Width: 1200, Height: 480 + 20*rng.IntN(5)}
		if i > 0 {
			p.Width, p.Height = 800, 500
		}
		p.Path = s.paths.images + slug(p.Caption) + ".jpg"
		s.Pictures = append(s.Pictures, p)
	}
	s.Posts[rng.IntN(len(s.Posts))].Picture = &s.Pictures[2]
	return s
}

func (s *site) text(t string) string { return s.fill.Replace(t) }

func (s *site) texts(in []string) []string {
	out := make([]string, len(in))
	for i, t := range in {
		out[i] = s.text(t)
	}
	return out
}

// slug is a title as it stands in an address.
func slug(title string) string {
	return strings.Join(strings.FieldsFunc(strings.ToLower(title), func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9')
	}), "-")
}

// palette is the part of the style sheet that differs between installs.
type palette struct {
	*site
	Size, Width, Radius, Rule, Card, Gap, HeadWeight int
	Leading, BodyFont, HeadFont                      string
	Ink, Paper, Accent, Soft, Line, Card1            string
	DarkTop, Boxed                                   bool
}

// files renders the whole site, and the page for what is not there.
func (s *site) files(host string) (files []file, missing []byte, err error) {
	pages, err := template.ParseFS(templates, "templates/*.html")
	if err != nil {
		return nil, nil, err
	}
	render := func(kind string, l link, n *news) ([]byte, error) {
		data := struct {
			Site        *site
			Path, Title string
			Post        *news
			Body        template.HTML
		}{Site: s, Path: l.Path, Title: l.Title, Post: n}
		var body, whole bytes.Buffer
		if err := pages.ExecuteTemplate(&body, kind, data); err != nil {
			return nil, err
		}
		data.Body = template.HTML(body.String())
		if kind == "home" {
			data.Title = ""
		}
		err := pages.ExecuteTemplate(&whole, "page.html", data)
		return whole.Bytes(), err
	}
	add := func(path, kind string, data []byte, modified time.Time) {
		files = append(files, file{path, kind, data, modified})
	}
	const page = "text/html; charset=utf-8"
	last := s.Posts[0].Date
	for i, kind := range []string{"home", "about", "offer", "news", "contact"} {
		data, err := render(kind, s.Menu[i], nil)
		if err != nil {
			return nil, nil, err
		}
		modified := last
		if kind != "home" && kind != "news" {
			modified = s.edited.AddDate(0, 0, 3+s.rng.IntN(25)).Add(time.Duration(s.rng.IntN(9999)) * time.Second)
		}
		add(s.Menu[i].Path, page, data, modified)
	}
	for i := range s.Posts {
		n := &s.Posts[i]
		data, err := render("post", link{n.Path, n.title}, n)
		if err != nil {
			return nil, nil, err
		}
		add(n.Path, page, data, n.Date)
	}
	if missing, err = render("missing", link{"", "Page not found"}, nil); err != nil {
		return nil, nil, err
	}

	style, ink, paper, err := s.style()
	if err != nil {
		return nil, nil, err
	}
	add(s.Style, "text/css; charset=utf-8", style, s.edited)
	for i := range s.Pictures {
		p := &s.Pictures[i]
		if p.data, err = landscape(s.rng, p.Width, p.Height); err != nil {
			return nil, nil, err
		}
		add(p.Path, "image/jpeg", p.data, s.edited.Add(-time.Duration(1+s.rng.IntN(40*24))*time.Hour))
	}
	icon, err := favicon(s.rng, ink, paper)
	if err != nil {
		return nil, nil, err
	}
	add("/favicon.ico", "image/vnd.microsoft.icon", icon, s.edited)

	var urls strings.Builder
	for _, f := range files {
		if f.kind == page {
			fmt.Fprintf(&urls, "<url><loc>https://%s%s</loc><lastmod>%s</lastmod></url>\n",
				html.EscapeString(host), f.path, f.modified.Format(time.DateOnly))
		}
	}
	add("/sitemap.xml", "text/xml; charset=utf-8", []byte("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"+
		"<urlset xmlns=\"http://www.sitemaps.org/schemas/sitemap/0.9\">\n"+urls.String()+"</urlset>\n"), last)
	add("/robots.txt", "text/plain; charset=utf-8", []byte("User-agent: *\nDisallow:\n\nSitemap: https://"+host+"/sitemap.xml\n"), s.edited)
	return files, missing, nil
}

func (s *site) style() (css []byte, accent, paper rgb, err error) {
	rng := s.rng
	hue := rng.Float64()
	accent = hsl(hue, 0.35+0.3*rng.Float64(), 0.26+0.08*rng.Float64())
	paper = hsl(hue+0.1, 0.2*rng.Float64(), 0.965+0.03*rng.Float64())
	ink := hsl(hue, 0.12, 0.13+0.05*rng.Float64())
	serif := []string{"Georgia, \"Times New Roman\", serif", "\"Iowan Old Style\", Palatino, Georgia, serif", "Charter, Cambria, Georgia, serif"}
	sans := []string{"system-ui, -apple-system, \"Segoe UI\", Roboto, sans-serif", "\"Helvetica Neue\", Arial, sans-serif", "Verdana, Geneva, sans-serif", "\"Trebuchet MS\", \"Lucida Grande\", sans-serif"}
	p := palette{
		site: s, Size: 16 + rng.IntN(3), Width: 820 + 40*rng.IntN(6), Radius: pick(rng, []int{0, 2, 4, 6, 10}),
		Rule: 1 + rng.IntN(3), Card: 240 + 20*rng.IntN(3), Gap: 22 + 2*rng.IntN(8), HeadWeight: pick(rng, []int{400, 600, 700}),
		Leading: pick(rng, []string{"1.5", "1.55", "1.6", "1.65"}), BodyFont: pick(rng, sans), HeadFont: pick(rng, serif),
		Ink: ink.css(), Paper: paper.css(), Accent: accent.css(), Soft: ink.mix(paper, 0.4).css(), Line: ink.mix(paper, 0.82).css(),
		Card1: paper.mix(accent, 0.07).css(), DarkTop: rng.IntN(2) == 0, Boxed: rng.IntN(2) == 0,
	}
	switch rng.IntN(3) {
	case 0:
		p.BodyFont, p.HeadFont = pick(rng, serif), p.BodyFont
	case 1:
		p.HeadFont = p.BodyFont
	}
	t, err := texttemplate.ParseFS(templates, "templates/site.css")
	if err != nil {
		return nil, accent, paper, err
	}
	var b bytes.Buffer
	err = t.Execute(&b, p)
	return b.Bytes(), accent, paper, err
}
