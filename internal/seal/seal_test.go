package seal

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
)

// light is too little work for anything but tests.
const light = 4

func keys(t testing.TB) *Keys {
	t.Helper()
	k, err := New()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// fixed are the same keys in every process: a fuzzer has several.
func fixed(t testing.TB) *Keys {
	t.Helper()
	k, err := Parse("AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX\n")
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestSeal(t *testing.T) {
	k := keys(t)
	for _, n := range []int{0, 1, 100, 64 << 10, 64<<10 + 1, 4 << 20} {
		data := bytes.Repeat([]byte("secret"), n/6+1)[:n]
		file, err := k.Seal(data)
		if err != nil {
			t.Fatal(err)
		}
		if !Is(file) || Is(data) || len(file) > n+Overhead || n > 5 && bytes.Contains(file, []byte("secret")) {
			t.Errorf("%d bytes become %d", n, len(file))
		}
		got, current, err := k.Open(file)
		if err != nil || !current || !bytes.Equal(got, data) {
			t.Errorf("%d bytes come back as %d, current %t, %v", n, len(got), current, err)
		}
	}
}

// TestRenewed: a former key opens and does not seal; a foreign one does neither.
func TestRenewed(t *testing.T) {
	old := keys(t)
	file, err := old.Seal([]byte("written before"))
	if err != nil {
		t.Fatal(err)
	}
	both, err := old.Renewed()
	if err != nil {
		t.Fatal(err)
	}
	if data, current, err := both.Open(file); string(data) != "written before" || current || err != nil || !both.Several() {
		t.Errorf("%q, current %t, %v", data, current, err)
	}
	later, err := both.Seal([]byte("written after"))
	if err != nil {
		t.Fatal(err)
	}
	if data, current, err := both.First().Open(later); string(data) != "written after" || !current || err != nil || both.First().Several() {
		t.Errorf("%q, current %t, %v", data, current, err)
	}
	for _, x := range []struct {
		k    *Keys
		file []byte
	}{{both.First(), file}, {old, later}, {keys(t), file}} {
		if data, _, err := x.k.Open(x.file); !errors.Is(err, ErrForeign) || data != nil {
			t.Errorf("%q, %v", data, err)
		}
	}
}

// TestDamaged changes every byte of a file, and cuts it everywhere.
func TestDamaged(t *testing.T) {
	k := keys(t)
	file, err := k.Seal([]byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	lock, err := k.Lock("four words and more", light)
	if err != nil {
		t.Fatal(err)
	}
	for _, whole := range [][]byte{file, lock} {
		for i := range whole {
			changed := bytes.Clone(whole)
			changed[i] ^= 1
			for _, b := range [][]byte{changed, whole[:i]} {
				if data, _, err := k.Open(b); err == nil || data != nil || !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrForeign) {
					t.Errorf("byte %d: %q, %v", i, data, err)
				}
				if k, err := Unlock(b, "four words and more"); err == nil || k != nil || !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrWrong) {
					t.Errorf("byte %d: %v, %v", i, k, err)
				}
			}
		}
	}
}

func TestLock(t *testing.T) {
	k, err := keys(t).Renewed()
	if err != nil {
		t.Fatal(err)
	}
	const passphrase = "белы бусел ляціць дадому"
	lock, err := k.Lock(passphrase, light)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Unlock(lock, passphrase)
	if err != nil || got.Text() != k.Text() || !got.Several() {
		t.Fatalf("%v", err)
	}
	for _, wrong := range []string{"", " ", passphrase + " ", strings.ToUpper(passphrase)} {
		if _, err := Unlock(lock, wrong); !errors.Is(err, ErrWrong) {
			t.Errorf("%q: %v", wrong, err)
		}
	}
	file, err := k.Seal(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Unlock(file, passphrase); !errors.Is(err, ErrDamaged) {
		t.Errorf("a file that is no lock: %v", err)
	}
	for _, s := range []string{fmt.Sprint(k), fmt.Sprintf("%+v %#v %s", k, k, k), k.LogValue().String()} {
		if strings.Contains(s, "SECRET-KEY") || strings.Contains(s, "0x") {
			t.Errorf("keys show as %s", s)
		}
	}
}

// TestWorkIsBounded: a lock that wants hours is refused at once.
func TestWorkIsBounded(t *testing.T) {
	lock, err := keys(t).Lock("four words and more", light)
	if err != nil {
		t.Fatal(err)
	}
	for _, work := range []string{"19", "22", "30", "63", "64", "99999999999999999999"} {
		hostile := bytes.Replace(lock, []byte(" 4\n"), []byte(" "+work+"\n"), 1)
		if bytes.Equal(hostile, lock) {
			t.Fatal("nothing was changed")
		}
		if _, err := Unlock(hostile, "four words and more"); !errors.Is(err, ErrDamaged) {
			t.Errorf("2^%s: %v", work, err)
		}
	}
	if _, err := Unlock(append(lock, make([]byte, MaxLock)...), "four words and more"); !errors.Is(err, ErrDamaged) {
		t.Errorf("a long one: %v", err)
	}
}

func TestCheck(t *testing.T) {
	for _, x := range []struct {
		passphrase string
		fault      string
	}{
		{"", "at least 8"}, {"seven77", "at least 8"}, {"зямелькі", ""}, {"eight888", ""},
		{strings.Repeat("x", 1024), ""}, {strings.Repeat("x", 1025), "at most 1024"},
		{"two\nlines long", "one line"}, {"ends so long\r", "one line"}, {"not text \xff\xfe", "one line"},
	} {
		err := Check(x.passphrase)
		if (err == nil) != (x.fault == "") || err != nil && !strings.Contains(err.Error(), x.fault) {
			t.Errorf("%q: %v", x.passphrase, err)
		}
	}
}

// TestAge: the age command, where it is installed, reads what is sealed here, as does its
// library everywhere.
func TestAge(t *testing.T) {
	k := keys(t)
	file, err := k.Seal([]byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	ids, err := age.ParseIdentities(strings.NewReader(k.Text()))
	if err != nil || len(ids) != 1 {
		t.Fatal(ids, err)
	}
	if data, err := decrypt(file, ids[0]); err != nil || string(data) != "secret" {
		t.Errorf("%q, %v", data, err)
	}
	command, err := exec.LookPath("age")
	if err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "f"), file, 0o600), os.WriteFile(filepath.Join(dir, "k"), []byte(k.Text()), 0o600)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(command, "-d", "-i", filepath.Join(dir, "k"), filepath.Join(dir, "f")).CombinedOutput(); err != nil || string(out) != "secret" {
		t.Errorf("%q, %v", out, err)
	}
}

// FuzzOpen: whatever a file says, it opens only if it is what was sealed; and the answer
// is one of the errors.
func FuzzOpen(f *testing.F) {
	k := fixed(f)
	file, err := k.Seal([]byte("secret"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(file)
	f.Add(file[:50])
	f.Add([]byte(magic))
	f.Add([]byte(magic + "-> X25519 AAAA\n\n--- AAAA\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		data, current, err := k.Open(b)
		if err != nil {
			if data != nil || current || !errors.Is(err, ErrForeign) && !errors.Is(err, ErrDamaged) {
				t.Errorf("%q, %t, %v", data, current, err)
			}
			return
		}
		if !Is(b) || !bytes.Equal(data, []byte("secret")) {
			t.Errorf("%q opens to %q", b, data)
		}
	})
}

// FuzzUnlock: whatever a lock says, it is refused at once or is bounded work.
func FuzzUnlock(f *testing.F) {
	k := fixed(f)
	lock, err := k.Lock("four words and more", 1)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(lock)
	f.Add(bytes.Replace(lock, []byte(" 1\n"), []byte(" 30\n"), 1))
	f.Add(bytes.Replace(lock, []byte("scrypt"), []byte("X25519"), 1))
	f.Add([]byte(magic + "-> scrypt AAAAAAAAAAAAAAAAAAAAAA 1\n\n--- AAAA\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if i := bytes.Index(b, []byte("-> scrypt ")); i >= 0 && bytes.Contains(b[i:], []byte(" 1")) && !bytes.Contains(b, []byte(" 1\n")) {
			t.Skip("2^10 and more is work that a fuzzer has no time for")
		}
		got, err := Unlock(b, "four words and more")
		if err == nil && got.Text() != k.Text() || err != nil && (got != nil || !errors.Is(err, ErrWrong) && !errors.Is(err, ErrDamaged)) {
			t.Errorf("%q: %v, %v", b, got, err)
		}
	})
}

// FuzzParse: what parses has one text form.
func FuzzParse(f *testing.F) {
	k := fixed(f)
	f.Add(k.Text())
	f.Add(strings.Repeat(k.Text(), 9))
	f.Add("AGE-SECRET-KEY-1\n")
	f.Fuzz(func(t *testing.T, s string) {
		k, err := Parse(s)
		if err != nil {
			return
		}
		if again, err := Parse(k.Text()); err != nil || again.Text() != k.Text() || len(k.all) > maxKeys {
			t.Errorf("%q: %v", s, err)
		}
	})
}
