package session_test

import (
	"testing"
	"testing/synctest"

	"busel/internal/flow"
	"busel/internal/session"
	"busel/internal/wire"
	"busel/transport"
	tt "busel/transport/transporttest"
)

// TestResetAcknowledgedElsewhere has a RESET arrive over a carrier that dies, and
// its ACK come over another one before the RESET was said there again. The test
// is the relay.
func TestResetAcknowledgedElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cl := session.NewClient(session.ClientConfig{})
		ended := make(chan error, 3)
		go func() { ended <- cl.Run(t.Context()) }()
		attach := func(capacity int) (relay transport.Carrier, kill func()) {
			l := tt.NewLink(tt.LinkConfig{Capacity: capacity})
			o := cl.Offer(session.CarrierOptions{})
			o.Hello().Append(nil)
			go func() { ended <- o.Attach(t.Context(), l.Carrier(tt.Client), new(wire.Accept)) }()
			synctest.Wait()
			return l.Carrier(tt.Relay), l.Kill
		}
		full, _ := attach(1) // takes its first words and nothing more, as nobody reads them
		first, kill := attach(0)

		s, err := cl.OpenStream(t.Context(), flow.Addr{Name: "site", Port: 80})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Write([]byte("request")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		s.Close()
		synctest.Wait()
		var reset wire.Frame
		buf := make([]byte, wire.MaxFrame)
		for reset.Type != wire.Reset {
			n, err := first.ReadFrames(buf)
			if err != nil {
				t.Fatal(err)
			}
			for b := buf[:n]; len(b) > 0; {
				var f wire.Frame
				n, err := wire.Parse(b, &f)
				if err != nil {
					t.Fatal(err)
				}
				if b = b[n:]; f.Type == wire.Reset {
					reset = f
				}
			}
		}
		kill()
		synctest.Wait()
		ack := wire.Frame{Type: wire.Ack, ID: reset.ID, Offset: reset.Offset + 1, Limit: wire.DefaultStreamWindow}
		if err := full.WriteFrames([]transport.Frame{{Data: ack.Append(nil)}}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if st := cl.Stats(); len(st.Carriers) != 1 {
			t.Errorf("the client gave up the carrier that brought the ACK: %+v", st)
		}
	})
}
