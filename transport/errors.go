package transport

import (
	"fmt"

	"busel/internal/wire"
)

// Stage is how far a dial came.
type Stage string

// Stages of a dial, in order.
const (
	StageConnect Stage = "connecting"       // TCP or UDP
	StageTLS     Stage = "in the TLS hello" // until the cover's certificate was judged
	StageHello   Stage = "saying hello"     // until the relay's reply opened
	StageLive    Stage = "in use"
)

// Failure is the kind of a failure as DESIGN.md section 7 lists them and the
// user reads them. The text is part of the `client status -json` contract.
type Failure string

// Kinds of failure.
const (
	Refused     Failure = "refused"      // the address answered that nobody listens
	Reset       Failure = "reset"        // RST while dialling or in use
	Timeout     Failure = "timeout"      // silence
	Hijacked    Failure = "hijacked"     // somebody else's certificate, or TLS finished and no reply record
	Frozen      Failure = "frozen"       // data outstanding, nothing received
	Throttled   Failure = "throttled"    // goodput far below what the path gave
	ClosedEarly Failure = "closed-early" // ended after N bytes or packets
	UnfitCover  Failure = "unfit-cover"  // the cover does not speak what the transport needs
	Revoked     Failure = "revoked"      // the relay refuses the invite: it was revoked
	Expired     Failure = "expired"      // likewise: it has expired
	Quota       Failure = "quota"        // likewise: what it may move this month is used up
	Devices     Failure = "devices"      // likewise: as many devices use it as may
	DNSLie      Failure = "dns-lie"      // name lookup lied
)

// Refusal is the failure of a hello that the relay answered with s; empty if that
// says nothing of the invite.
func Refusal(s wire.Status) Failure {
	switch s {
	case wire.StatusRevoked:
		return Revoked
	case wire.StatusExpired:
		return Expired
	case wire.StatusQuota:
		return Quota
	case wire.StatusDevices:
		return Devices
	}
	return ""
}

// DialError is why a dial did not lead to a carrier.
type DialError struct {
	Route   Route
	Stage   Stage
	Failure Failure // empty when the cause is local, such as a cancelled context
	Err     error
}

func (e *DialError) Error() string {
	if e.Failure == "" {
		return fmt.Sprintf("%s over %s: %s: %v", e.Route.Relay, e.Route.Transport, e.Stage, e.Err)
	}
	return fmt.Sprintf("%s over %s: %s while %s: %v", e.Route.Relay, e.Route.Transport, e.Failure, e.Stage, e.Err)
}

// Unwrap returns the cause.
func (e *DialError) Unwrap() error { return e.Err }

// CarrierError is how a live carrier ended. An end that the cover or the peer
// brought about in good order has an empty Failure.
type CarrierError struct {
	Failure Failure
	Err     error
}

func (e *CarrierError) Error() string {
	if e.Failure == "" {
		return fmt.Sprintf("carrier ended: %v", e.Err)
	}
	return fmt.Sprintf("carrier ended (%s): %v", e.Failure, e.Err)
}

// Unwrap returns the cause.
func (e *CarrierError) Unwrap() error { return e.Err }
