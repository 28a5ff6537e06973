//go:build !brokenrelay

package fault

// The faults, each with the rule that it breaks.
const (
	SwallowTampered = false // rule 3: a record that was tampered with reaches nobody, nor what follows it
	AnswerTampered  = false // rule 3: the relay itself ends a connection that was tampered with
	HoldFIN         = false // rule 4: the cover's FIN is not passed on
	OwnTimer        = false // rule 4: the relay ends connections by a timer of its own
	SwallowAfterFIN = false // rule 4: what a client sends behind the cover's FIN reaches nobody
	InsertAtOnce    = false // rule 5: a reply does not wait for the cover's first words
	FixedRecords    = false // rule 10: every covert record of the relay has the same length
	CloseUnread     = false // rule 11: a connection is closed with bytes unread, and the FIN becomes a RST
	ResetAsFIN      = false // rule 11: a RST is passed on as FIN
	KeepAlive       = false // rule 11: the kernel asks silent clients for a sign of life
	MultipathTCP    = false // rule 11: the listener offers Multipath TCP
)
