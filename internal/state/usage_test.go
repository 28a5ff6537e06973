package state

import (
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func openUsage(t testing.TB, d *Dir) *Usage {
	t.Helper()
	u, err := d.OpenUsage()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { u.Close() })
	return u
}

func add(t testing.TB, u *Usage, id byte, m Month, n uint64) uint64 {
	t.Helper()
	sum, err := u.Add(InviteID{id}, m, n)
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

func TestUsageMonths(t *testing.T) {
	d := open(t)
	u := openUsage(t, d)
	november := MonthOf(time.Date(2026, 11, 30, 23, 59, 59, 0, time.UTC))
	december := MonthOf(time.Date(2026, 12, 1, 2, 0, 0, 0, time.FixedZone("", 3600)))
	if december != november+1 || !december.Begin().Equal(time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)) || (december+1).Begin().Year() != 2027 {
		t.Errorf("months: %d, %d, %v", november, december, december.Begin())
	}
	if n := add(t, u, 1, november, 0); n != 0 {
		t.Errorf("an unknown invite has %d", n)
	}
	for i, want := range []uint64{5, 10, 15} {
		if n := add(t, u, 1, november, 5); n != want {
			t.Errorf("sum %d is %d", i, n)
		}
	}
	add(t, u, 2, november, 7)
	again := openUsage(t, d) // another program, or the next
	if n := add(t, again, 1, november, 0); n != 15 {
		t.Errorf("after opening it again: %d", n)
	}
	if n := add(t, again, 1, december, 0); n != 0 {
		t.Errorf("in the next month: %d", n)
	}
	add(t, again, 1, december, 4)
	if n := add(t, u, 1, december, 0); n != 4 {
		t.Errorf("what the other program added: %d", n)
	}
	if n := add(t, u, 1, november, 0); n != 4 {
		t.Errorf("a clock that was set back gives away what is used up: %d", n)
	}
	if n := add(t, u, 2, november, 0); n != 7 {
		t.Errorf("the other invite: %d", n)
	}
	add(t, again, 3, november, 1) // a record that u has not seen
	if n := add(t, u, 3, november, 1); n != 2 {
		t.Errorf("two records of one invite: %d", n)
	}
}

func TestUsageDamage(t *testing.T) {
	d := open(t)
	u := openUsage(t, d)
	for id := range byte(3) {
		add(t, u, id, 1, 100)
	}
	if err := u.Sync(); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(u.path)
	if err != nil {
		t.Fatal(err)
	}
	raw[2*usageRecord+20]++                                       // the second record
	raw = append(raw, make([]byte, usageRecord+usageRecord/2)...) // a power cut while the file grew
	if err := os.WriteFile(u.path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	u = openUsage(t, d)
	if n := u.Damaged(); n != 2 {
		t.Errorf("%d records are damaged", n)
	}
	for id, want := range []uint64{101, 1, 101} {
		if n := add(t, u, byte(id), 1, 1); n != want {
			t.Errorf("invite %d: %d, want %d", id, n, want)
		}
	}
	if err := os.WriteFile(u.path, []byte(strings.Repeat("x", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := d.OpenUsage(); err == nil {
		t.Error("took another program's file")
	}
}

const countVariable = "BUSEL_TEST_COUNT"

// TestUsageKilled has a program that counts killed at random moments, and one that
// runs beside it. What they said that they had counted is there, and at most one
// step more each time.
func TestUsageKilled(t *testing.T) {
	if path := os.Getenv(countVariable); path != "" {
		d, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		u := openUsage(t, d)
		for {
			add(t, u, 9, 1, 1)
			os.Stdout.Write([]byte("+"))
		}
	}
	if testing.Short() {
		t.Skip("starts programs")
	}
	d := open(t)
	u := openUsage(t, d)
	const kills = 8
	said, own := 0, 0
	for range kills {
		cmd := exec.Command(os.Args[0], "-test.run=^TestUsageKilled$")
		cmd.Env = append(os.Environ(), countVariable+"="+d.Path())
		var out strings.Builder
		begun := make(chan struct{})
		cmd.Stdout = &starts{&out, sync.OnceFunc(func() { close(begun) })}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		<-begun
		for end := time.Now().Add(rand.N(20 * time.Millisecond)); time.Now().Before(end); own++ {
			add(t, u, 9, 1, 1)
		}
		if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		cmd.Wait()
		said += strings.Count(out.String(), "+")
	}
	sum := int(add(t, openUsage(t, d), 9, 1, 0))
	if sum < said+own || sum > said+own+kills {
		t.Errorf("the file has %d, %d and %d were counted", sum, said, own)
	}
	t.Logf("%d by programs that were killed, %d beside them, in the file %d", said, own, sum)
}

// starts tells of the first write.
type starts struct {
	to    *strings.Builder
	first func()
}

func (s *starts) Write(b []byte) (int, error) {
	s.first()
	return s.to.Write(b)
}

// FuzzUsage opens any file: what it tells is added to, and never less than that.
func FuzzUsage(f *testing.F) {
	head := append([]byte(usageMagic), make([]byte, usageRecord-len(usageMagic))...)
	f.Add(head)
	f.Add(append(head, make([]byte, 2*usageRecord)...))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		d := open(t)
		if err := d.Write(usageFile, data); err != nil {
			t.Fatal(err)
		}
		u, err := d.OpenUsage()
		if err != nil {
			return
		}
		defer u.Close()
		before, err := u.Add(InviteID{1}, 5, 0)
		if err != nil || before > 1<<63 {
			return
		}
		if sum := add(t, u, 1, 5, 10); sum != before+10 {
			t.Fatalf("%d and 10 is %d", before, sum)
		}
		if sum := add(t, u, 1, 5, 0); sum != before+10 {
			t.Fatalf("%d was kept as %d", before+10, sum)
		}
	})
}
