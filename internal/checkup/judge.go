package checkup

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Groups of key exchange (IANA, TLS Supported Groups).
const (
	groupX25519         = 0x001d
	groupX25519MLKEM768 = 0x11ec
)

const (
	// leastIdle is an idle limit under which clients have to come back all the time;
	// nginx's is 75 s.
	leastIdle = 30 * time.Second
	// leastLife of a busy connection, likewise.
	leastLife = 5 * time.Minute
	// farCover is a round trip to a cover that shows: an observer who knows the round
	// trip to the relay sees that answers come from further away (THREATS.md, row T2).
	farCover = 5 * time.Millisecond
	// soon is when a certificate that is still valid should have been renewed.
	soon = 10 * 24 * time.Hour
	// shortCertificate: those for addresses live six days, and are renewed late.
	shortSoon = 24 * time.Hour
	// leastFiles is enough for some thousand connections.
	leastFiles = 4096
	// wantUDPBuffer is what quic-go asks for, in bytes (its wiki, "UDP Buffer Sizes").
	wantUDPBuffer = 7 << 20
	// wantTCPBuffer is what BBR wants to keep at 5 % loss and 100 ms: with the kernel's
	// usual 4 MiB it stands still for 12 to 18 % of the time (sndbuf_limited of ss).
	wantTCPBuffer = 16 << 20
	// leastNginxRoom is how many visits a relay passes on at a time (transport/mirror,
	// ADR 0021).
	leastNginxRoom = 4096
	// clockOff is a difference that shows.
	clockOff = 2 * time.Minute
)

// Judge says everything that can be said, in the order in which one reads it.
func Judge(f *Facts) []Finding {
	j := &judge{f: f}
	j.ports()
	j.address()
	j.exit()
	j.cover()
	j.name()
	j.machine()
	return j.all
}

// JudgeCover says what can be said of a cover that no relay has yet.
func JudgeCover(f *Facts) []Finding {
	j := &judge{f: f}
	j.cover()
	if f.Kind == Borrowed {
		j.distance()
	}
	return j.all
}

// Worst is the gravest verdict of all.
func Worst(all []Finding) Verdict {
	worst := Good
	for _, f := range all {
		if f.Verdict == Bad || worst == Good {
			worst = f.Verdict
		}
	}
	return worst
}

type judge struct {
	f   *Facts
	all []Finding
}

func (j *judge) say(v Verdict, topic, hint, format string, args ...any) {
	j.all = append(j.all, Finding{Verdict: v, Topic: topic, Text: fmt.Sprintf(format, args...), Hint: hint})
}

func (j *judge) ports() {
	if j.f.Running {
		j.say(Good, "running", "", "The relay runs here.")
		return
	}
	bad := false
	for _, p := range j.f.Ports {
		if p.Err != nil {
			bad = true
			j.say(Bad, "ports", "stop the program that has it, or move it: your own web server belongs on loopback; ports below 1024 need root or the service", "%s cannot be had: %v.", p.Name, p.Err)
		}
	}
	if !bad {
		j.say(Note, "running", "start it (systemctl start busel-relay, or relayd run) and check again: then the site is also seen as strangers see it", "The relay does not run; its ports are free.")
	}
}

func (j *judge) address() {
	a := j.f.Address
	if !a.IsValid() {
		j.say(Bad, "address", "give the name an address in its DNS, or write an address into relayd.toml and make fresh invites", "The relay's address %s leads nowhere.", j.f.Host)
		return
	}
	addrs := []netip.Addr{a.Addr()}
	if len(j.f.HostAddrs) > 0 {
		addrs = j.f.HostAddrs
	}
	for _, ip := range addrs {
		switch {
		case slices.Contains(j.f.Local, ip):
			j.say(Good, "address", "", "%s is an address of this machine.", ip)
		case ip.IsLoopback() || ip.IsPrivate() || ip.IsLinkLocalUnicast():
			j.say(Bad, "address", "write the public address into relayd.toml and make fresh invites", "%s cannot be reached from the internet.", ip)
		case slices.ContainsFunc(j.f.Leaving, func(l netip.Addr) bool { return l.Is4() == ip.Is4() && l.IsPrivate() }):
			j.say(Note, "address", "ask a friend elsewhere to open https://"+a.String()+"/", "%s is not on this machine, which is behind its provider's translation: whether that leads here cannot be seen from here.", ip)
		default:
			j.say(Bad, "address", "correct address in relayd.toml and make fresh invites", "%s is not an address of this machine.", ip)
		}
	}
	if a.Port() != 443 {
		j.say(Note, "port", "move the relay to port 443 if you can", "Clients come to port %d, where few web sites are; 443 draws less attention.", a.Port())
	}
}

// exit warns where an application can ask a site for its address and so learn the
// relay's.
func (j *judge) exit() {
	const hint = "if this server has a second address, let the relay listen on one and leave from the other; else know that a program which runs on a client's computer can learn the relay's address"
	for _, l := range j.f.Leaving {
		switch {
		case slices.Contains(append(j.f.HostAddrs, j.f.Address.Addr()), l):
			j.say(Note, "exit", hint, "Connections of clients leave from %s, the address that they come to: any site that they visit sees it.", l)
		case l.IsPrivate() && j.f.Address.Addr().Is4() == l.Is4():
			j.say(Note, "exit", hint, "Connections of clients leave from %s and are translated, most likely to the address that clients come to.", l)
		default:
			j.say(Good, "exit", "", "Connections of clients leave from %s, another address than they come to.", l)
		}
	}
	if len(j.f.Leaving) == 0 {
		j.say(Bad, "exit", "look at the network of this machine: ip route", "This machine has no way to the internet.")
	}
}

func (j *judge) cover() {
	c, f := j.f.Cover, j.f
	if f.Refusal != "" {
		j.say(Bad, "authority", "the name must lead here, and port 443 or 80 be open; restart the relay to try again at once", "The authority issued no certificate the last time: %s.", f.Refusal)
	}
	through := c == nil
	if through {
		c = f.Front
	}
	switch {
	case c == nil:
		if f.Kind == Builtin {
			j.say(Note, "cover", "start the relay and check again", "The built-in site is up only while the relay runs, so it was not looked at.")
		}
		return
	case c.Err != nil && through:
		j.say(Bad, "cover", "look at the relay's log: journalctl -u busel-relay", "The relay does not answer as a web site: %v.", c.Err)
		return
	case c.Err != nil:
		j.say(Bad, "cover", "start the web server; cover in relayd.toml is where it answers https", "The cover site does not answer: %v.", c.Err)
		return
	}
	j.tls(c)
	j.http(c)
	j.limits(c)
	if through || f.Front == nil {
		return
	}
	switch {
	case f.Front.Err != nil:
		j.say(Bad, "front", "look at the relay's log: journalctl -u busel-relay", "The site does not answer through the relay: %v.", f.Front.Err)
	case f.Front.Leaf != c.Leaf:
		j.say(Bad, "front", "another program may have the port, or the web server serves several names: look at its configuration", "Through the relay another certificate is shown than by the cover itself.")
	default:
		j.say(Good, "front", "", "Strangers see the site through the relay.")
	}
}

func (j *judge) tls(c *Site) {
	if !c.TLS13 {
		j.say(Bad, "tls", "turn it on (nginx: ssl_protocols TLSv1.2 TLSv1.3)", "The site does not speak TLS 1.3, and the relay cannot hide in older versions.")
	} else {
		j.say(Good, "tls", "", "The site speaks TLS 1.3.")
		switch {
		case c.Retry:
			j.say(Bad, "group", "put X25519 first (nginx: ssl_ecdh_curve X25519:prime256v1)", "The site asks for another key exchange than a browser's first offer.")
		case c.Group == groupX25519MLKEM768:
			j.say(Good, "group", "", "The site chooses X25519MLKEM768, as current ones do.")
		case c.Group == groupX25519:
			j.say(Note, "group", "a web server with OpenSSL 3.5 or Go 1.24 and newer has it", "The site chooses x25519; X25519MLKEM768 is what browsers prefer, and recordings of today stay closed to computers of tomorrow.")
		default:
			j.say(Bad, "group", "put X25519 first (nginx: ssl_ecdh_curve X25519:prime256v1)", "The site chooses key exchange group %#x, and a relay needs x25519 or X25519MLKEM768.", c.Group)
		}
		switch {
		case c.EarlyData > 0:
			j.say(Bad, "early-data", "turn it off (nginx: ssl_early_data off)", "The site takes early data, which a client never sends and a censor may replay.")
		case c.Tickets > 0:
			j.say(Good, "tickets", "", "The site gives tickets for later visits (%d), without early data.", c.Tickets)
		case c.Tickets == 0:
			j.say(Note, "tickets", "turn them on (nginx: ssl_session_tickets on)", "The site gives no tickets for later visits, as most sites do: each visit then is a first one.")
		}
	}
	switch {
	case c.CertErr != nil:
		j.say(Bad, "certificate", "renew it, or give the relay the name that it is for", "The certificate: %v.", c.CertErr)
	case c.SelfSigned && j.f.Authority:
		j.say(Bad, "certificate", "see why: journalctl -u busel-relay; the name must lead here, and port 443 or 80 be open", "The authority has issued no certificate that clients know, so they refuse the site.")
	case c.SelfSigned:
		j.say(Note, "certificate", "a domain of your own and a certificate for it (relayd init -acme letsencrypt, or your web server's) look like any site", "The certificate is self-made. Invites pin it, so clients are safe, but few public sites have such a one.")
	case c.NotAfter.Before(j.f.Now):
		j.say(Bad, "certificate", "renew it", "The certificate ended on %s.", c.NotAfter.UTC().Format(time.DateOnly))
	case c.NotAfter.Before(j.f.Now.Add(shortSoon)):
		j.say(Note, "certificate", "see why it is not renewed", "The certificate ends on %s.", c.NotAfter.UTC().Format(time.DateTime))
	case c.NotAfter.Before(j.f.Now.Add(soon)):
		j.say(Note, "certificate", "see that it is renewed in time; those for an address live six days only", "The certificate ends on %s.", c.NotAfter.UTC().Format(time.DateOnly))
	default:
		j.say(Good, "certificate", "", "The certificate is good until %s.", c.NotAfter.UTC().Format(time.DateOnly))
	}
}

func (j *judge) http(c *Site) {
	switch {
	case c.Status == 0:
		j.say(Bad, "http", "look at the web server's log", "The site does not answer GET / for %s.", j.f.Name)
	case c.Status >= 400:
		j.say(Note, "http", "show a page there: a site with content is a better cover", "The site answers GET / with status %d.", c.Status)
	default:
		j.say(Good, "http", "", "The site answers GET / with status %d.", c.Status)
	}
	switch {
	case c.ALPN == "h2" && c.HTTP1 > 0:
		j.say(Good, "h2", "", "The site speaks HTTP/2 and HTTP/1.1.")
	case c.ALPN == "h2":
		j.say(Note, "h2", "let it answer HTTP/1.1, too", "The site speaks HTTP/2, and does not answer over HTTP/1.1.")
	default:
		j.say(Note, "h2", "turn HTTP/2 on (nginx: listen ... ssl http2)", "The site does not speak HTTP/2, as nearly all do: visits with long downloads in HTTP/1.1 are rare.")
	}
	port, offers := h3Port(c.AltSvc)
	switch {
	case !offers && j.f.Kind == Builtin && j.f.UDP:
		j.say(Bad, "h3", "start the relay anew", "The site does not say that it answers over HTTP/3.")
	case !offers:
		j.say(Good, "h3", "", "The site promises no HTTP/3.")
	case c.HTTP3:
		j.say(Good, "h3", "", "The site answers over HTTP/3 on UDP port %d, as it says.", port)
	case c.HTTP3Err != nil:
		j.say(Bad, "h3", "turn HTTP/3 off in the web server (Caddy: servers { protocols h1 h2 })", "The site says that it answers over HTTP/3 on UDP port %d, and nothing does: %v.", port, c.HTTP3Err)
	default:
		j.say(Note, "h3", "if nothing answers there, turn HTTP/3 off in the web server (Caddy: servers { protocols h1 h2 })", "The site says that it answers over HTTP/3 on UDP port %d, which was not tried.", port)
	}
}

func (j *judge) limits(c *Site) {
	const hint = "nginx: keepalive_timeout 75s"
	switch {
	case c.Idle > 0 && c.Idle < leastIdle:
		j.say(Bad, "idle", hint, "The site closes quiet connections after %s: clients would have to come back all the time.", seconds(c.Idle))
	case c.Idle > 0:
		j.say(Good, "idle", "", "The site closes quiet connections after %s; clients keep to it.", seconds(c.Idle))
	case c.IdleFor > 0:
		j.say(Good, "idle", "", "The site keeps quiet connections for %s and more.", seconds(c.IdleFor))
	}
	switch {
	case c.Life > 0 && c.Life < leastLife:
		j.say(Bad, "lifetime", "nginx: keepalive_time 1h, keepalive_requests 1000", "The site closes connections after %s although they are in use.", seconds(c.Life))
	case c.Life > 0:
		j.say(Good, "lifetime", "", "The site closes connections that are in use after %s.", seconds(c.Life))
	case c.LifeFor > 0:
		j.say(Good, "lifetime", "", "The site keeps connections that are in use for %s and more.", seconds(c.LifeFor))
	}
	switch {
	case c.ParallelOf == 0 && j.f.Kind == Borrowed:
		j.say(Note, "connections", "", "How many connections the site takes from one address was not tried: it is somebody else's.")
	case c.ParallelOf > 0 && c.Parallel < c.ParallelOf:
		j.say(Bad, "connections", "all visits come from the relay's address, so lift the limits for it (nginx: no limit_conn, worker_connections 8192)", "Of %d connections at a time the site served %d.", c.ParallelOf, c.Parallel)
	case j.f.Kind == Own && strings.HasPrefix(c.Server, "nginx") && j.f.NginxRoom > 0 && j.f.NginxRoom < leastNginxRoom:
		j.say(Note, "connections", "in nginx.conf: worker_rlimit_nofile 16384; events { worker_connections 8192; }", "A worker of nginx takes %d connections at a time, and a relay may pass on %d: when nginx runs out it ends quiet visits, clients' too.", j.f.NginxRoom, leastNginxRoom)
	case c.ParallelOf > 0:
		j.say(Good, "connections", "", "The site serves %d connections at a time from one address.", c.ParallelOf)
	}
}

// name compares what the DNS says of the cover's name with where it is seen.
func (j *judge) name() {
	f := j.f
	if f.Kind == Borrowed {
		j.say(Note, "borrowed", "a site of your own on this machine is better, see VOLUNTEERS.md", "The cover is somebody else's site: at most 20 clients at a time, and who compares addresses sees that it is not here.")
		own := append(slices.Clone(f.HostAddrs), f.Address.Addr())
		near := slices.ContainsFunc(f.CoverAddrs, func(c netip.Addr) bool {
			return slices.ContainsFunc(own, func(a netip.Addr) bool { return sameNetwork(a, c) })
		})
		if near {
			j.say(Good, "network", "", "It is in the same network as the relay.")
		} else {
			j.say(Note, "network", "look for one at the same provider", "It is in another network than the relay.")
		}
		j.distance()
		return
	}
	if ip, err := netip.ParseAddr(f.Name); err == nil {
		if ip == f.Address.Addr() {
			j.say(Good, "name", "", "The site is known by its address, %s.", ip)
		} else {
			j.say(Bad, "name", "write the relay's address as cover-name, too", "The site's name is the address %s, and the relay has another.", ip)
		}
		return
	}
	switch {
	case f.NameErr != nil || len(f.NameAddrs) == 0:
		j.say(Note, "name", "for more than trying out: a domain of your own that leads to this server", "The name %s is not in the DNS: who looks it up sees that the site cannot be real.", f.Name)
	case slices.ContainsFunc(f.NameAddrs, func(a netip.Addr) bool { return a == f.Address.Addr() || slices.Contains(f.HostAddrs, a) }):
		j.say(Good, "name", "", "The name %s leads to the relay's address.", f.Name)
	default:
		j.say(Bad, "name", "let its DNS lead to "+f.Address.Addr().String(), "The name %s leads to %s, not to the relay: who compares sees that.", f.Name, list(f.NameAddrs))
	}
}

func (j *judge) distance() {
	c := j.f.Cover
	if c == nil || c.Err != nil || c.RoundTrip == 0 {
		return
	}
	if c.RoundTrip > farCover {
		j.say(Note, "distance", "look for a site nearer to this server", "It is %s away, which shows in every answer.", c.RoundTrip.Round(time.Millisecond/10))
	} else {
		j.say(Good, "distance", "", "It is near: %s.", c.RoundTrip.Round(time.Millisecond/10))
	}
}

func (j *judge) machine() {
	f := j.f
	if f.Synced != nil && !*f.Synced {
		j.say(Note, "clock", "apt-get install systemd-timesyncd, or chrony", "The clock follows no other one; certificates and expiry of invites need the right day.")
	}
	if c := f.Cover; f.Kind == Borrowed && c != nil && !c.Date.IsZero() {
		if off := f.Now.Sub(c.Date).Abs(); off > clockOff {
			j.say(Bad, "clock", "set it: timedatectl set-ntp true", "The clock is %s off that of the cover.", off.Round(time.Second))
		}
	}
	if f.OpenFiles > 0 && f.OpenFiles < leastFiles {
		j.say(Note, "files", "the service has 65536; else: ulimit -n 65536", "Only %d files may be open here, two for each connection.", f.OpenFiles)
	}
	if f.UDP && f.UDPBuffer > 0 && f.UDPBuffer < wantUDPBuffer {
		j.say(Note, "udp-buffer", fmt.Sprintf("for more speed: sysctl -w net.core.rmem_max=%d net.core.wmem_max=%[1]d; install-relay does it for good", wantUDPBuffer), "The system gives UDP sockets at most %d kB of buffer.", f.UDPBuffer>>10)
	}
	if f.TCPBuffer > 0 && f.TCPBuffer < wantTCPBuffer {
		j.say(Note, "tcp-buffer", fmt.Sprintf("for more speed on long ways that lose packets: sysctl -w net.ipv4.tcp_wmem='4096 16384 %d'; install-relay does it for good", wantTCPBuffer), "The system lets TCP keep at most %d kB of what was sent.", f.TCPBuffer>>10)
	}
	if f.NoBBR {
		j.say(Note, "bbr", "modprobe tcp_bbr, and for good: echo tcp_bbr >/etc/modules-load.d/busel-relay.conf; install-relay does both", "The system does not offer BBR, with which downloads keep their speed where packets are lost.")
	}
}

// sameNetwork is what can be told without a list of networks: the first 16 bits of
// IPv4, the first 32 of IPv6, which is what providers are given.
func sameNetwork(a, b netip.Addr) bool {
	bits := 32
	if a.Is4() {
		bits = 16
	}
	p, err := a.Prefix(bits)
	return err == nil && a.Is4() == b.Is4() && p.Contains(b)
}

func seconds(d time.Duration) string { return d.Round(time.Second).String() }

func list(addrs []netip.Addr) string {
	var texts []string
	for _, a := range addrs {
		texts = append(texts, a.String())
	}
	return strings.Join(texts, ", ")
}
