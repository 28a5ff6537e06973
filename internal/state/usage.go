package state

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math"
	"os"
	"sync"
	"time"
)

// Month is a calendar month in UTC: year times 12 and the months before it.
type Month uint32

// MonthOf is the month of a moment.
func MonthOf(t time.Time) Month {
	t = t.UTC()
	return Month(t.Year()*12 + int(t.Month()) - 1)
}

// Begin is the first moment of the month.
func (m Month) Begin() time.Time {
	return time.Date(int(m)/12, time.Month(m%12)+1, 1, 0, 0, 0, 0, time.UTC)
}

const (
	usageFile  = "usage"
	usageMagic = "busel usage 1\n\n\n" // as long as half a record
	// usageRecord is the length of a record and of what goes before the first. No
	// record lies across two sectors of a disk or pages of memory, so that none is
	// ever half written.
	usageRecord = 32
	// maxUsage bounds the file; each invite that was used has a record.
	maxUsage = MaxFile
)

// ErrUsageFull means that no more invites can be counted.
var ErrUsageFull = errors.New("too many invites in the file of what was used")

// Usage is the file of what each invite has moved in the current month:
//
//	file   = magic(16) | 0(16) | records
//	record = id(8) | month u32 | CRC-32C of the other 28 bytes u32 | bytes u64 | 0(8)
//
// Integers are big-endian. A record is overwritten in place, in one write, which
// survives the end of the program at any moment; [Usage.Sync] makes it survive that
// of the machine. Sums are added to under a lock, so that two programs may count in
// one file. Its methods may be called by several goroutines.
type Usage struct {
	path string

	mu   sync.Mutex
	file *os.File
	at   map[InviteID]int64 // where records are
	end  int64
	bad  int
}

// OpenUsage opens the file, and makes it if it is not there. The caller closes it.
func (d *Dir) OpenUsage() (*Usage, error) {
	open := func() (*os.File, error) { return d.root.OpenFile(usageFile, os.O_RDWR, 0) }
	f, err := open()
	if errors.Is(err, fs.ErrNotExist) {
		err = d.change(func() error {
			return d.create(usageFile, append([]byte(usageMagic), make([]byte, usageRecord-len(usageMagic))...))
		})
		if err == nil || errors.Is(err, ErrExists) { // another program was first
			f, err = open()
		}
	}
	if err != nil {
		return nil, d.named(usageFile, err)
	}
	u := &Usage{path: d.join(usageFile), file: f, at: make(map[InviteID]int64), end: usageRecord}
	if err := u.begin(); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", u.path, err)
	}
	return u, nil
}

// begin reads the file.
func (u *Usage) begin() error {
	release, err := u.lock()
	if err != nil {
		return err
	}
	defer release()
	head := make([]byte, usageRecord)
	switch _, err := u.file.ReadAt(head, 0); {
	case err != nil && err != io.EOF:
		return err
	case string(head[:len(usageMagic)]) != usageMagic:
		return errors.New("is no file of this program; move it elsewhere")
	}
	return u.scan()
}

// lock keeps other programs from the file. u.mu is held, or u is not shared yet.
func (u *Usage) lock() (release func(), err error) {
	if err := lock(u.file, true); err != nil {
		return nil, err
	}
	return func() { _ = unlock(u.file) }, nil // fails only for a file that is closed
}

// scan learns of records behind those that are known.
func (u *Usage) scan() error {
	info, err := u.file.Stat()
	if err != nil {
		return err
	}
	for end := min(info.Size(), maxUsage) / usageRecord * usageRecord; u.end < end; u.end += usageRecord {
		b := make([]byte, usageRecord)
		if _, err := u.file.ReadAt(b, u.end); err != nil {
			return err
		}
		id, _, _, ok := readUsage(b)
		if _, known := u.at[id]; !ok || known {
			u.bad++ // it stays as it is: an empty place costs nothing
			continue
		}
		u.at[id] = u.end
	}
	return nil
}

func readUsage(b []byte) (id InviteID, m Month, sum uint64, ok bool) {
	m = Month(binary.BigEndian.Uint32(b[8:]))
	sum = binary.BigEndian.Uint64(b[16:])
	return InviteID(b[:8]), m, sum, usageCheck(b) == binary.BigEndian.Uint32(b[12:])
}

func usageCheck(b []byte) uint32 {
	sum := crc32.Checksum(b[:12], crc32.MakeTable(crc32.Castagnoli))
	return crc32.Update(sum, crc32.MakeTable(crc32.Castagnoli), b[16:usageRecord])
}

// Damaged is how many records could not be read. Their invites begin at 0.
func (u *Usage) Damaged() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.bad
}

// Add adds n bytes, which may be 0, to what the invite has moved in the month, and
// returns the sum. A record of an earlier month begins anew. One of a later month,
// which only a clock that was set back leaves, goes on: a wrong clock must not give
// away what is used up.
func (u *Usage) Add(id InviteID, m Month, n uint64) (sum uint64, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	release, err := u.lock()
	if err != nil {
		return 0, fmt.Errorf("%s: %w", u.path, err)
	}
	defer release()
	if sum, err = u.add(id, m, n); err != nil {
		return 0, fmt.Errorf("%s: %w", u.path, err)
	}
	return sum, nil
}

func (u *Usage) add(id InviteID, m Month, n uint64) (uint64, error) {
	at, known := u.at[id]
	if !known {
		if err := u.scan(); err != nil { // another program may have made it
			return 0, err
		}
		if at, known = u.at[id]; !known {
			if n == 0 {
				return 0, nil
			}
			if u.end >= maxUsage {
				return 0, ErrUsageFull
			}
			at = u.end
		}
	}
	b := make([]byte, usageRecord)
	sum := n
	if known {
		if _, err := u.file.ReadAt(b, at); err != nil {
			return 0, err
		}
		if found, was, had, ok := readUsage(b); ok && found == id && was >= m {
			if n == 0 && was == m {
				return had, nil
			}
			sum = had + min(n, math.MaxUint64-had)
		} else if n == 0 {
			return 0, nil
		}
	}
	clear(b)
	copy(b, id[:])
	binary.BigEndian.PutUint32(b[8:], uint32(m))
	binary.BigEndian.PutUint64(b[16:], sum)
	binary.BigEndian.PutUint32(b[12:], usageCheck(b))
	if _, err := u.file.WriteAt(b, at); err != nil {
		return 0, err
	}
	if !known {
		u.at[id] = at
		u.end = at + usageRecord
	}
	return sum, nil
}

// Sync makes what was added survive a power cut.
func (u *Usage) Sync() error {
	if err := u.file.Sync(); err != nil {
		return fmt.Errorf("%s: %w", u.path, err)
	}
	return nil
}

// Close closes the file.
func (u *Usage) Close() error { return u.file.Close() }
