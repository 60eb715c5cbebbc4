package nodeconf

import "os"

// soak asks for every case, as make soak does; otherwise a sample has some of each kind.
var soak = os.Getenv("CASEMATE_SOAK") != ""
