package main

import (
	"fmt"
	"net"
	"net/netip"

	"busel/config"
	"busel/internal/flow"
)

// nginxFile and caddyFile are where init leaves settings for the volunteer's own
// web server.
const (
	nginxFile = "cover-nginx.conf"
	caddyFile = "cover-caddy.conf"
)

// ownServer reports whether the cover is the volunteer's web server on loopback.
func ownServer(set *config.Relay) bool {
	a, err := flow.SplitHostPort(set.Cover)
	return err == nil && (a.Name == "localhost" || a.IP.IsLoopback())
}

// nginxSnippet are settings with which nginx makes a good cover (docs/PROTOCOL.md,
// section 3.3): TLS 1.3 with X25519, many connections from one address, as all of
// them come from the relay, no record of them, and nginx's usual idle limit. It
// suits nginx from 1.18 on.
func nginxSnippet(set *config.Relay) string {
	host, port := loopback(set)
	return fmt.Sprintf(`# A cover site for a Busel relay: put this file where nginx looks for sites, such
# as /etc/nginx/conf.d/, name your certificate and folder below, then
#
#   nginx -t && nginx -s reload
#
# nginx.conf itself wants room for the connections, two for each visitor:
#
#   worker_rlimit_nofile 16384;
#   events { worker_connections 8192; }
#
# No other site of this nginx may listen on port 443 of all addresses: relayd has
# that port, and everybody who comes without an invite is passed on to here.

server {
    # sndbuf: what visitors do not take waits with the relay and in here; by itself the
    # system would keep megabytes for each.
    listen %[1]s ssl http2 sndbuf=256k;
    server_name %[2]s;

    ssl_certificate     /etc/letsencrypt/live/%[2]s/fullchain.pem;
    ssl_certificate_key /etc/letsencrypt/live/%[2]s/privkey.pem;
    ssl_protocols       TLSv1.2 TLSv1.3;
    ssl_ecdh_curve      X25519:prime256v1;

    # Clients of the relay learn the idle limit and keep to it.
    keepalive_timeout 75s;

    # Who visits is nobody's business. Every visit comes from the relay's address:
    # so no limit_conn, limit_req or ban by address either.
    access_log off;

    root /var/www/html;
    index index.html;
}
`, net.JoinHostPort(host, port), set.CoverName)
}

// loopback is where the cover listens, localhost resolved.
func loopback(set *config.Relay) (host, port string) {
	host, port, _ = net.SplitHostPort(set.Cover) // was parsed before
	if _, err := netip.ParseAddr(host); err != nil {
		host = "127.0.0.1"
	}
	return host, port
}

// caddySnippet are settings with which Caddy, from 2.6 on, makes a good cover: no
// HTTP/3, since UDP of the port is the relay's; redirects to port 443, not to its own;
// and certificates by way of the relay, which passes the authority's visit on
// (TLS-ALPN-01), or by port 80.
func caddySnippet(set *config.Relay) string {
	host, port := loopback(set)
	return fmt.Sprintf(`# A cover site for a Busel relay: put this into /etc/caddy/Caddyfile, name your
# folder below, then
#
#   systemctl reload caddy
#
# Caddy fetches the certificate by itself as soon as the relay runs. It writes no
# record of visits unless it is told to by "log"; leave it so, and set no limits or
# bans by address: every visit comes from the relay's.

{
	https_port %[2]s
	auto_https disable_redirects
	servers %[4]s {
		protocols h1 h2
	}
}

https://%[3]s {
	bind %[1]s
	root * /var/www/html
	file_server
	encode gzip
}

http://%[3]s {
	redir https://{host}{uri} permanent
}
`, host, port, set.CoverName, net.JoinHostPort(host, port))
}
