package quic

import (
	"fmt"
	"strconv"
	"strings"

	"busel/obfs/initial"
)

// MaxPorts is how many ports a range may have: the relay has a socket for each.
const MaxPorts = 64

// options are what a route of this transport may say, separated by commas.
type options struct {
	site      bool   // "h3": the HTTP/3 form
	disguised bool   // "disguise": the relay takes a ClientHello in a browser's
	low, high uint16 // "port=N" or "ports=A-B"; 0 for the port of the address
}

const (
	siteOption     = "h3"
	disguiseOption = "disguise"
	// SiteOptions are those of a route in the HTTP/3 form on the address's port.
	SiteOptions = siteOption + "," + disguiseOption
)

// PortsOptions are those of a route in the scrambled form on one of the ports
// low..high.
func PortsOptions(low, high uint16) string {
	if low == high {
		return "port=" + strconv.Itoa(int(low))
	}
	return fmt.Sprintf("ports=%d-%d", low, high)
}

// CheckOptions reports whether this version can use a route with such options:
// "h3" for the HTTP/3 form, "disguise" with it for a relay that takes a ClientHello in
// disguise, "port=N" for a UDP port that is not that of the
// address, "ports=A-B" for one of at most [MaxPorts] that the client picks anew
// for each dial.
func CheckOptions(text string) error {
	_, err := parseOptions(text)
	return err
}

func parseOptions(text string) (o options, err error) {
	unknown := fmt.Errorf("options %q are not known; get a newer Busel", text)
	if text == "" {
		return o, nil
	}
	for option := range strings.SplitSeq(text, ",") {
		name, value, _ := strings.Cut(option, "=")
		switch {
		case option == siteOption && !o.site:
			o.site = true
		case option == disguiseOption && o.site && !o.disguised:
			o.disguised = true
		case (name == "port" || name == "ports") && o.high == 0:
			low, high, isRange := strings.Cut(value, "-")
			if isRange != (name == "ports") {
				return options{}, unknown
			}
			if !isRange {
				high = low
			}
			a, errA := strconv.ParseUint(low, 10, 16)
			b, errB := strconv.ParseUint(high, 10, 16)
			if errA != nil || errB != nil || a == 0 || b < a || b-a >= MaxPorts {
				return options{}, unknown
			}
			o.low, o.high = uint16(a), uint16(b)
		default:
			return options{}, unknown
		}
	}
	return o, nil
}

// disguise is that of a ClientHello to the relay with the key S, nil for none.
func (o options) disguise(s [32]byte) *initial.Disguise {
	if !o.disguised {
		return nil
	}
	return initial.NewDisguise(s)
}
