//go:build brokenrelay

package fault

import "os"

var broken = os.Getenv("BUSEL_BREAK")

// The faults, as in the other build.
var (
	SwallowTampered = broken == "swallow-tampered"
	AnswerTampered  = broken == "answer-tampered"
	HoldFIN         = broken == "hold-fin"
	OwnTimer        = broken == "own-timer"
	SwallowAfterFIN = broken == "swallow-after-fin"
	InsertAtOnce    = broken == "insert-at-once"
	FixedRecords    = broken == "fixed-records"
	CloseUnread     = broken == "close-unread"
	ResetAsFIN      = broken == "reset-as-fin"
	KeepAlive       = broken == "keepalive"
	MultipathTCP    = broken == "multipath"
)
