package front

import (
	"fmt"
	"net/http"
)

// pacPath is where browsers find the proxy's automatic configuration.
const pacPath = "/proxy.pac"

// pacText sends every request to the proxy, and nothing around it: not when the
// proxy does not answer (no DIRECT at the end), and not for plain host names and
// private addresses either, which would tell the network what is asked for; the
// relay refuses those. (Browsers keep requests for this device itself on it,
// whatever a PAC says.)
//
// It names the proxy as an HTTP proxy only. That is all that a browser needs, and
// the one kind for which every browser leaves names to the proxy and asks for a
// password. Where a PAC says SOCKS, which is version 4, Chromium and Windows look
// names up themselves, and where it says SOCKS5 Firefox did before version 128:
// a second choice after the first would leak every name whenever the first fails,
// and could not succeed where it failed, since all are one port.
const pacText = `function FindProxyForURL(url, host) {
  return "PROXY %s";
}
`

// PACURL is the address of the proxy's automatic configuration. It is no secret.
// It is valid after Listen.
func (f *Front) PACURL() string { return "http://" + f.addr.String() + pacPath }

// servePAC needs no secret: a browser would not know it, and whoever asks has
// found the port already. The page's headers keep scripts of web sites from
// reading it.
func (f *Front) servePAC(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/x-ns-proxy-autoconfig")
	fmt.Fprintf(w, pacText, f.addr) // the browser may have gone
}
