package config

import (
	"bytes"
	"log/slog"
	"testing"
)

func TestJournalLinesCarryTheirPriority(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(newJournal(&out, slog.LevelDebug)).With("room", "x").WithGroup("g")
	log.Debug("a", "k", "v")
	log.Info("b")
	log.Warn("c\nd")
	log.Error("e", "level", 1)
	want := "<7>msg=a room=x g.k=v\n<6>msg=b room=x\n<4>msg=\"c\\nd\" room=x\n<3>msg=e room=x g.level=1\n"
	if out.String() != want {
		t.Errorf("got\n%s, want\n%s", out.String(), want)
	}
}
