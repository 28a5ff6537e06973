package exit

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"busel/internal/flow"
)

// Delays of RFC 8305, section 8.
const (
	resolutionDelay = 50 * time.Millisecond
	attemptDelay    = 250 * time.Millisecond
)

// Families in the order of preference (RFC 8305, section 3).
var families = [2]string{"ip6", "ip4"}

type looked struct {
	family int // index into families
	addrs  []netip.Addr
	err    error
}

type attempted struct {
	conn net.Conn
	err  error
}

// connect resolves dst in both families at once and races connections to the
// addresses that the policy permits (RFC 8305): IPv6 first, the families in
// turns, a new attempt every attemptDelay or as soon as one fails. All
// goroutines have ended when it returns.
func (e *Exit) connect(parent context.Context, dst flow.Addr) (net.Conn, *flow.OpenError) {
	ctx, cancel := context.WithTimeout(parent, e.dialTimeout)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()

	var (
		answers  = make(chan looked)
		attempts = make(chan attempted)
		queue    [2][]netip.Addr // what is left to try, by family
		turn     int             // family of the next attempt
		lookups  int             // running
		dials    int             // running
		ready    bool            // connecting may begin
		hold     <-chan time.Time
		pace     <-chan time.Time
		worst    *flow.OpenError
	)
	note := func(err *flow.OpenError) {
		if worst == nil || telling(err) > telling(worst) {
			worst = err
		}
	}
	permit := func(family int, addrs []netip.Addr) {
		for _, a := range addrs {
			if e.policy.Load().permits(netip.AddrPortFrom(a, dst.Port)) {
				queue[family] = append(queue[family], a)
			} else {
				note(errDenied())
			}
		}
	}
	switch ip := literal(dst); {
	case ip.IsValid():
		family := 0
		if ip.Is4() {
			family = 1
		}
		permit(family, []netip.Addr{ip})
		ready = true
	case dst.Name == "":
		return nil, &flow.OpenError{Code: flow.AddressNotSupported, Err: flow.ErrBadAddr}
	default:
		lookups = len(families)
		for family, network := range families {
			wg.Go(func() {
				addrs, err := e.names.lookup(ctx, ask(network, dst.Name))
				select {
				case answers <- looked{family, addrs, err}:
				case <-ctx.Done():
				}
			})
		}
	}

	for {
		if ready && pace == nil {
			if len(queue[turn]) == 0 {
				turn = 1 - turn
			}
			if len(queue[turn]) > 0 {
				target := netip.AddrPortFrom(queue[turn][0], dst.Port).String()
				queue[turn] = queue[turn][1:]
				turn = 1 - turn
				dials++
				pace = time.After(attemptDelay)
				wg.Go(func() {
					conn, err := e.network.DialContext(ctx, "tcp", target)
					select {
					case attempts <- attempted{conn, err}:
					case <-ctx.Done():
						if err == nil {
							conn.Close() // a loser
						}
					}
				})
			}
		}
		if lookups == 0 && dials == 0 && len(queue[0]) == 0 && len(queue[1]) == 0 {
			if worst == nil { // an answer without addresses and without an error
				worst = errLookup(nil)
			}
			return nil, worst
		}
		select {
		case a := <-answers:
			lookups--
			if a.err != nil {
				note(errLookup(a.err))
			}
			permit(a.family, a.addrs)
			switch {
			case lookups == 0 || a.family == 0 && len(queue[0]) > 0:
				ready, hold = true, nil
			case len(queue[a.family]) > 0:
				hold = time.After(resolutionDelay)
			}
		case r := <-attempts:
			if r.err == nil {
				return r.conn, nil
			}
			dials--
			pace = nil
			note(errDial(r.err))
		case <-hold:
			ready, hold = true, nil
		case <-pace:
			pace = nil
		case <-ctx.Done():
			if parent.Err() != nil && !errors.Is(parent.Err(), context.DeadlineExceeded) {
				return nil, &flow.OpenError{Code: flow.GeneralFailure, Err: context.Cause(parent)}
			}
			if dials == 0 && lookups > 0 {
				note(errLookup(ctx.Err()))
			} else {
				note(errDial(ctx.Err()))
			}
			return nil, worst
		}
	}
}

// literal returns the address that dst is, also when it came as a name: many
// programs send "192.0.2.1" as a host name.
func literal(dst flow.Addr) netip.Addr {
	if dst.IP.IsValid() {
		return plain(dst.IP)
	}
	ip, _ := netip.ParseAddr(dst.Name)
	return plain(ip)
}

func errDenied() *flow.OpenError {
	return &flow.OpenError{Code: flow.NotAllowed, Detail: flow.DetailPolicy}
}

// errLookup tells a name that does not exist from a name server that failed.
// The cause is left out because it names the host.
func errLookup(err error) *flow.OpenError {
	if err == nil || notFound(err) {
		return &flow.OpenError{Code: flow.HostUnreachable, Detail: flow.DetailNameNotFound}
	}
	return &flow.OpenError{Code: flow.HostUnreachable, Detail: flow.DetailNameServerFailed}
}

// errDial classifies a failed connection attempt. Of the cause only the system's
// error number is kept: the rest of a *net.OpError is addresses.
func errDial(err error) *flow.OpenError {
	var cause error
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		cause = errno
	}
	var timeout net.Error
	switch {
	case isErrno(err, errnoRefused):
		return &flow.OpenError{Code: flow.ConnectionRefused, Detail: flow.DetailRefused}
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded),
		errors.As(err, &timeout) && timeout.Timeout():
		return &flow.OpenError{Code: flow.TTLExpired, Detail: flow.DetailTimeout}
	case isErrno(err, errnoHostUnreachable):
		return &flow.OpenError{Code: flow.HostUnreachable, Err: cause}
	case isErrno(err, errnoNetUnreachable):
		return &flow.OpenError{Code: flow.NetworkUnreachable, Err: cause}
	case isErrno(err, errnoForbidden):
		// The host's own firewall: the volunteer does not want it either.
		return &flow.OpenError{Code: flow.NotAllowed, Detail: flow.DetailPolicy, Err: cause}
	}
	return &flow.OpenError{Code: flow.GeneralFailure, Err: cause}
}

func isErrno(err error, set []syscall.Errno) bool {
	for _, errno := range set {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// telling ranks errors by how much they tell about the destination: of several
// addresses the most telling failure is reported. IPv6 that the relay does not
// have tells nothing.
func telling(err *flow.OpenError) int {
	switch {
	case err.Detail == flow.DetailRefused:
		return 7
	case err.Detail == flow.DetailTimeout:
		return 6
	case err.Detail == flow.DetailPolicy:
		return 5
	case err.Detail == flow.DetailNameServerFailed:
		return 1
	case err.Detail == flow.DetailNameNotFound:
		return 0
	case err.Code == flow.HostUnreachable:
		return 4
	case err.Code == flow.NetworkUnreachable:
		return 3
	}
	return 2
}
