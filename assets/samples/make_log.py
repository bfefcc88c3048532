"""Write harbour-log.txt, the daily log of Josiah Quill, harbour master of Averstow, beside this script.

The log is made from sentence templates with a fixed seed and the standard library only, so every run writes the
same bytes: about 315,000 characters, more than a memory of 65,536 tokens can hold (it is full, and has begun to
forget, after about 200,000 characters of this text). Ships arrive, lie at a berth and sail; debts, disputes and
letters entered on one date are settled on a later one with the same names and sums; and 46 facts ("The secret number
of Edda Marlowe is 5 0 9 2.", "The password of the Amber Maid is thimble.") are spread evenly over it, a few of which
are stated a second time.

Usage: python make_log.py
"""

import datetime
import random
from pathlib import Path

SEED = 1862
TARGET = 314_000
START = datetime.date(1862, 1, 1)
OUTPUT = Path(__file__).with_name("harbour-log.txt")

MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]

# Name, rig and master of the ships that use the harbour.
SHIPS = [
    ("Amber Maid", "brig", "Captain Luke Harrowby"),
    ("Pride of Ardenholme", "schooner", "Captain Evan Protheroe"),
    ("Silver Thrift", "ketch", "Captain Amos Dunnage"),
    ("Queen of Quenby", "brigantine", "Captain Horace Mellish"),
    ("Patient Griselda", "barque", "Captain Jonas Tregear"),
    ("Three Cousins", "smack", "Captain Peter Olley"),
    ("Northern Lass", "schooner", "Captain Magnus Erlend"),
    ("Corn Dolly", "ketch", "Captain William Sparrow"),
    ("Bold Endeavour", "brig", "Captain Rufus Castleton"),
    ("Merry Chanter", "schooner", "Captain Daniel Fife"),
    ("Widow's Mite", "sloop", "Captain Ezra Lumley"),
    ("Golden Fleece", "barque", "Captain Arthur Penhale"),
    ("Sallowby Packet", "packet", "Captain Thomas Inskip"),
    ("Grey Goose", "sloop", "Captain Barnaby Stroud"),
    ("Hesper", "brigantine", "Captain Julius Warne"),
    ("Fair Rosamund", "barque", "Captain Hugh Delacourt"),
    ("Kettlewick Trader", "ketch", "Captain Jem Sanders"),
    ("Providence", "brig", "Captain Obed Marsh"),
    ("Star of Lanreth", "schooner", "Captain Owen Meredith"),
    ("Little Dorothy", "smack", "Captain Ben Cordery"),
    ("Iron Duchess", "steamer", "Captain Walter Scobie"),
    ("Tansy", "sloop", "Captain Giles Fenner"),
    ("Morning Watch", "brig", "Captain Stephen Akehurst"),
    ("Drossen Belle", "galliot", "Captain Klaas Vendeling"),
    ("Saint Averil", "lugger", "Captain Yves Morvan"),
    ("Happy Return", "schooner", "Captain Simon Tolliver"),
    ("Blue Pitcher", "ketch", "Captain Noah Gathercole"),
    ("Ostermouth Castle", "steamer", "Captain Robert Garrick"),
    ("Heather Bell", "schooner", "Captain Angus Rankine"),
    ("Good Samaritan", "brig", "Captain Isaac Pomfret"),
]
PORTS = [
    "Port Sable",
    "Marchmoor",
    "Ardenholme",
    "Kettlewick",
    "Sallowby",
    "Vant Harbour",
    "Drossen",
    "Ostermouth",
    "Lanreth",
    "Quenby",
    "Saint Averil",
    "Mordeney",
    "Tressock",
    "Great Callow",
    "Valdoro",
]
BERTHS = [
    "Linnet Quay",
    "the Chapel Steps",
    "Tar Wharf",
    "the Long Stage",
    "Cooper's Hard",
    "the Inner Basin",
    "Widow's Berth",
    "the Old Crane",
    "Gull Stairs",
    "Limekiln Berth",
    "Rope Walk Quay",
    "the Fish Strand",
]
# Cargo with the smallest and the largest number carried.
CARGOES = [
    ("casks of tallow", 20, 160),
    ("barrels of salt herring", 60, 700),
    ("tons of coal", 40, 280),
    ("sacks of barley", 80, 900),
    ("bales of wool", 30, 240),
    ("deals of Drossen pine", 200, 1900),
    ("puncheons of molasses", 12, 90),
    ("chests of tea", 10, 120),
    ("tons of slates", 25, 140),
    ("firkins of butter", 40, 330),
    ("hogsheads of cider", 10, 80),
    ("crates of earthenware", 16, 150),
    ("coils of hemp rope", 24, 260),
    ("barrels of tar", 30, 310),
    ("boxes of raisins", 50, 480),
    ("tons of pit props", 30, 170),
    ("bolts of sailcloth", 18, 130),
    ("head of cattle", 8, 64),
    ("cases of oranges", 40, 390),
    ("bags of nails", 35, 410),
    ("quarters of oats", 60, 620),
    ("sheets of window glass", 90, 800),
    ("kegs of white lead", 15, 140),
    ("tons of limestone", 30, 190),
]
FIRST = [
    "Absalom",
    "Benjamin",
    "Clement",
    "Dennis",
    "Ephraim",
    "Francis",
    "Gideon",
    "Harold",
    "Ichabod",
    "Jeremy",
    "Kenelm",
    "Lemuel",
    "Martin",
    "Nathan",
    "Oliver",
    "Phineas",
    "Ralph",
    "Solomon",
    "Timothy",
    "Uriah",
    "Vincent",
    "Wilfred",
    "Zachary",
    "Adam",
    "Bartholomew",
    "Christopher",
    "Duncan",
    "Enoch",
    "Felix",
    "Gregory",
]
LAST = [
    "Bunting",
    "Cheverell",
    "Dapper",
    "Eastlake",
    "Frobeck",
    "Gudgeon",
    "Hatherley",
    "Inchbold",
    "Jessamy",
    "Kidderlow",
    "Larkham",
    "Muddiman",
    "Netherby",
    "Orchard",
    "Pettigrew",
    "Quested",
    "Rumbelow",
    "Stallybrass",
    "Thirkettle",
    "Uppington",
    "Vellacott",
    "Wagstaff",
    "Yelland",
    "Applegarth",
    "Bracken",
    "Codlin",
    "Drinkwater",
    "Ferriby",
    "Garland",
    "Hopgood",
]
TRADES = [
    "the cooper",
    "the sailmaker",
    "the baker in Brackwater Lane",
    "the carter",
    "the rigger",
    "the net-maker",
    "the lamp-trimmer",
    "the chandler's man",
    "the blacksmith",
    "the pilot's mate",
    "the lumper",
    "the keeper of the toll-house",
    "the ferryman",
    "the schoolmaster",
    "the corn-factor",
    "the ballast-master",
    "the apothecary",
    "the hatter",
]
DEBT_FOR = [
    "a suit of sails",
    "a cask of brandy spoiled in the landing",
    "repairs to a gig",
    "the hire of two lighters",
    "a lame horse",
    "eleven weeks' lodging",
    "a new anchor of nine hundredweight",
    "pilotage not paid since Michaelmas",
    "a load of timber",
    "a broken crane-chain",
    "the freight of a harmonium",
    "a wager upon the regatta",
    "sixty fathoms of cable",
    "a milch cow",
    "the painting of a signboard",
    "provisions for a voyage",
    "a share in a herring-net",
    "a chronometer that would not go",
]
QUARREL = [
    "the ownership of a spar washed up below Gull Stairs",
    "a fouled anchor",
    "the right to the first cart at the crane",
    "a pig that had come ashore without a bill of health",
    "the price of forty fathoms of warp",
    "a blow given in jest",
    "the moving of a boundary stone at the Fish Strand",
    "a dog which had eaten a flag",
    "a short tally of sacks",
    "a fender cut away in the night",
    "the name of a boat",
    "a hat lost overboard through want of care",
    "the use of the only dry shed",
    "a remark passed upon a wife",
    "the ringing of a fog-bell out of time",
]
FOUND = [
    "a left boot with eleven pence in it",
    "a fiddle wanting one string",
    "a copper kettle",
    "a bundle of love-letters",
    "a brass quadrant marked R. T.",
    "an umbrella of green silk",
    "a child's wooden horse",
    "a set of false teeth",
    "a Bible in the Drossen tongue",
    "a cage with a linnet alive in it",
    "a bag of foreign coppers",
    "a wedding ring",
    "an oar painted yellow",
    "a clay pipe in the likeness of a bishop",
    "a lady's glove with a pearl button",
]
REPAIRS = [
    "the second bollard",
    "the hinges of the sluice",
    "the lamp at the pier-head",
    "the chain of the Old Crane",
    "the roof of the dry shed",
    "the ladder at Gull Stairs",
    "the tide-gauge",
    "the weighing-beam",
    "the pump",
    "the flagstaff",
    "the fenders upon Linnet Quay",
    "the guard-boat's rudder",
]

WEATHER = [
    "Wind {wind}, {force}; the glass at {glass} and {trend}.",
    "A {sky} morning, with the wind at {wind} and the glass standing at {glass}.",
    "The glass {trend}, {glass} at eight o'clock; wind {wind}, {force}.",
    "{Sky} throughout. Wind {wind} until noon, and then {force} from {wind2}.",
    "At daylight the wind was {wind}, {force}, with {sea} upon the bar.",
    "Wind backed in the night from {wind2} to {wind}; {sky}, and {sea} outside.",
    "{Sky} and cold for the season; glass {glass}; the vane upon the church at {wind}.",
    "High water at {hour}. Wind {wind}, {force}; {sea}.",
    "It blew {force} from {wind} from midnight, and took off with the ebb at {hour}.",
    "A day without an opinion: {sky}, the glass at {glass}, and the wind anywhere between {wind} and {wind2}.",
    "Rose to find it {sky}. The glass is {trend}, and I do not like the look of it to the {wind}.",
    "Wind {wind}. The thermometer at {degrees} degrees upon the north wall of the Custom House; {sky}.",
    "{Sky} at dawn and {sky2} by dusk; there was {sea} off the Dunnocks, the wind being {wind}.",
    "The wind {wind}, {force}, and a great many gulls upon the roof, which is commonly thought to mean more of it.",
]
ARRIVE = [
    "Arrived the {rig} {ship}, {master}, from {port}, with {n} {cargo}; berthed at {berth}.",
    "The {ship} came in upon the {tide} tide, {days} days out of {port}, and lies at {berth} with {n} {cargo}.",
    "{master} brought in the {rig} {ship} at {hour}, and was given {berth}; his cargo is {n} {cargo} from {port}.",
    "At {hour} the {rig} {ship} was made fast at {berth}. She has {n} {cargo}, shipped at {port}.",
    "Came in from {port}, the {ship}, {master}, deep laden with {n} {cargo}. I have put her at {berth}.",
    "The pilot boarded the {rig} {ship} off the Dunnocks; she is from {port} with {n} {cargo}, and has {berth}.",
    "{n} {cargo} to be landed at {berth} from the {ship}, {master}, which arrived from {port} at {hour}.",
    "{master} reports a passage of {days} days from {port}. The {ship} is at {berth}; cargo, {n} {cargo}.",
    "The {rig} {ship} has come round from {port} and lies at {berth}; {master} declares {n} {cargo}, and no fever.",
    "To {berth}, at {hour}, the {rig} {ship} of {master}, with {n} {cargo}; last port {port}.",
    "Ned Tallow in the Plover brought up the {ship} to {berth}; {master}, from {port}, {n} {cargo}.",
]
DEPART = [
    "Sailed, the {rig} {ship}, {master}, for {port}, leaving {berth} clear.",
    "The {ship} went out upon the {tide} tide for {port}; {master} paid {dues} in dues.",
    "{master} took the {ship} to sea at {hour}, bound to {port} with {n} {cargo}.",
    "{berth_cap} is empty again, the {rig} {ship} having cleared for {port}.",
    "Cleared outward the {ship}, {master}, for {port}, with {n} {cargo}. Dues, {dues}.",
    "At {hour} the {rig} {ship} was warped off from {berth}, and was hull down towards {port} before dark.",
    "The {ship} is gone to {port} at last. {master} was in no good temper, having lain here {stay} days.",
    "Ned Tallow took out the {rig} {ship}, {master}, bound for {port}; she had lain {stay} days at {berth}.",
    "Outward, for {port}: the {ship}, with {n} {cargo}. {master} left {dues} with me for the use of {berth}.",
    "The {rig} {ship} let go from {berth} at {hour}. {master} means to be in {port} within the week.",
]
DEBT = [
    "{a} acknowledges before me that he owes {b} {sum} for {what}.",
    "Entered at the desire of both: {sum} is due from {a} to {b} for {what}.",
    "{b} complains that {a} has had {what}, and has not paid the {sum}; I have set it down.",
    "{a} and {b} came in together, shook hands, and had me write that {sum} is owing for {what}, from the first to "
    "the second.",
    "Witnessed a note of hand, {a} to {b}, {sum}; the occasion being {what}.",
    "A debt: {a} to {b}, {trade}, in the matter of {what}; {sum}.",
]
PAID = [
    "{a} paid {b} the {sum} which was entered here on {date}.",
    "The debt of {sum} between {a} and {b}, of {date}, for {what}, is discharged; I have struck it out.",
    "{b} has had his {sum} from {a}, who counted it out upon my desk. See under {date}.",
    "Paid before me, {sum}, {a} to {b}, being the price of {what} that was written down on {date}.",
    "I find on turning back to {date} that {a} owed {b} {sum}. It was paid this forenoon in silver.",
    "{a}, who has been uneasy since {date}, brought {b} the {sum} for {what}, and goes home a free man.",
]
DISPUTE = [
    "A dispute at {berth} between {a} and {b}, touching {what}. I have reserved my judgment.",
    "{a} and {b} are at variance over {what}; each of them has called twice, and neither will sit down.",
    "High words upon {berth}. {b} charges {a} with {what}; they are to come before me.",
    "I was fetched from my dinner to part {a} and {b}. The quarrel is about {what}.",
    "{a} lodges a complaint against {b}, {trade}, concerning {what}.",
    "It is {a} against {b} now, and the matter is {what}. I wish that they would go to law.",
]
SETTLED = [
    "{a} and {b}, who fell out on {date} over {what}, have agreed to divide the blame.",
    "Gave judgment between {a} and {b} in the matter of {what}, begun on {date}: for {b}, with {fine} costs.",
    "The business of {date}, {a} against {b}, is ended; they were seen drinking together at the Three Herons.",
    "Mr. Oakleigh has made peace between {a} and {b}. It was about {what}, as I noted on {date}.",
    "{b} withdraws what he said of {a} on {date}. I have fined them both {fine}, for {what}.",
]
LETTER = [
    "A letter is left with me for {a}, sealed in {wax} wax; the bearer was {b}.",
    "{b} handed in a packet for {a}, to be called for. It is tied with {wax} ribbon.",
    "By the hand of {b}, from {port}, one letter for {a}. I have put it in pigeon-hole number {hole}.",
    "There is a letter here for {a} with {pence} pence to pay upon it; it came from {port} by {b}.",
    "Received from {b}, and laid in pigeon-hole number {hole}, a letter for {a}, marked Private.",
]
COLLECTED = [
    "{a} came for the letter which {b} left on {date}, and read it upon the step.",
    "Gave up to {a} the packet brought by {b} on {date}. He went away whistling.",
    "The letter for {a}, in my keeping since {date}, is called for. It had been brought by {b}.",
    "{a} has had at last what {b} left here on {date}, and says that it is good news.",
    "{a} called, and was given the letter of {date}. It was burnt in my grate by desire; {b} is not to be told.",
]
SUNDRY = [
    "{a} found {found} at {berth}; it may be had of me upon description.",
    "Lost, between {berth} and the Three Herons, {found}. {a} offers {fine} for it.",
    "{a}, {trade}, has begun upon {repair}, and asks {fine} for the work.",
    "{repair_cap} has been made good by {a}; I have tried it, and it will serve.",
    "I have again written to the Board about {repair}. I have again not been answered.",
    "{a} fell from {berth} at {hour}, sober, and was got out by {b} with a boat-hook.",
    "The child of {a} has the measles; the house in Brackwater Lane is to be kept apart.",
    "A wedding at St. Orran's, {a} being the groom; {b} gave away the bride, and the carts were late in consequence.",
    "Buried, old Mrs. {last}, aged {age}. She could remember the Dutch gunner.",
    "{a} and {b} rowed a match round the pier-head for {fine}. It was won by {b}, by a length.",
    "Mrs. Pym has let all her nine beds, at fourteen pence the night; {a} slept upon the settle.",
    "The guard-boat was out until {hour}; {a} pulled stroke, and reports nothing but porpoises.",
    "Sounded the channel off {berth}, and found {fathoms} feet at low water, which is a foot less than in the autumn.",
    "{a} is sworn in as a constable of the quay, in the room of {b}, who has a chest.",
    "Shipped for Gannory, by {a}'s cart, {casks} casks of oil, to the order of Miss Holt.",
    "Abel Gorse walked over from the light. He says that the lamp is well and that the goat has eaten a {garment}.",
    "The child Wenna was on the quay with her aunt, and asked me {questions} questions between ten o'clock and noon.",
    "{b} has taken the house with the {colour} door, at a rent of {fine} the week.",
    "The price of bread is up again; {a} says it is the oats, and {b} says it is the bakers.",
    "A lighter belonging to {a} sank at {berth} in the night, and was raised by {hour}, with the loss of a bucket.",
    "{a} has been chosen to carry the banner of the Fishermen's Club, to the great mortification of {b}.",
    "Mixed a fresh quart of green ink. {a} asked if it was for drinking.",
    "Judith sent in the account from the chandlery for {repair}: {fine}, and not a figure wrong.",
    "An old seaman, giving the name of {a}, asks for a passage to {port}, and can pay for half of it.",
    "{a} swears to a seal upon the rocks below Hob's Stair; {b} swears to a mermaid. I enter the seal.",
    "The tide-waiter, {a}, has weighed {n} {cargo} and makes it {short} short. It is to be weighed again.",
    "At {hour} the Gannory bell was heard, five strokes and a pause; the fog was gone within the hour.",
    "{a} has taught his jackdaw to call out the name of {b}, who is not pleased.",
    "A subscription is opened for a new lifeboat; {a} gives {fine}, and {b} gives his opinion.",
    "{a} reports a broken spar adrift {miles} miles to the southward, with weed upon it.",
    "The herring are come. {a} landed {n} baskets at {berth} before breakfast.",
    "The herring are gone. {a} has been out two nights for {short} baskets.",
    "I was asked by {a} to say whether a whale is a fish, for {fine}; I declined.",
    "{a} was bitten by a conger at {berth}, and shows the place to all comers.",
    "The mail-bag from {port} was {short} hours late, {a} having stopped to shoe his pony.",
    "{a} is gone to {port} to be married, and {b} has his boat until he repents.",
    "A hawker of almanacs, from {port}, was moved on from {berth}. I bought one.",
    "{a} and {b} have whitewashed the pilot-house, and, in a measure, one another.",
    "The cellar of the Three Herons took in {fathoms} inches of water; Mrs. Pym blames the moon.",
    "{a} has laid down a new boat of {fathoms} feet at Cooper's Hard, and means to paint her {colour}.",
    "{b} launched his new boat this tide; she floats, which {a} had doubted.",
    "Took {a} before Mr. Oakleigh for throwing ballast in the fairway. Fined {fine}.",
    "The Marchmoor surveyor is here about {repair}; he has measured everything, and said nothing.",
    "A boy of {b}'s climbed the flagstaff for a wager and could not be got down till {hour}.",
    "{a} says that he heard drums off the Dunnocks at {hour}. It was the beating of carpets.",
    "Old {last} the pensioner had his {age} years toasted at the Three Herons, and danced.",
    "Delivered to {a}, upon his mark, the sum of {fine} for the watching of a wreck-buoy.",
    "The buoy off the Merrow Gut has dragged {miles} cables; {a} is to lay it again at the neaps.",
    "{a} lent his cart across the Pellary Sands and had it back with a crab in it.",
    "The tide turned early, and {a} and {b} came off the Pellary Sands wet to the knees.",
    "A drove of {casks} geese belonging to {a} walked into the Custom House, and were not declared.",
    "Two gentlemen from {port} came to sketch {berth}, and were rained upon until {hour}.",
    "{a} has the toothache, and has been to the apothecary, the blacksmith, and {b}.",
    "There is talk of a railway at {port}. There has been talk of it for {short} years.",
    "I have had {repair} looked to by {a}; he shook his head, for which he charges {fine}.",
    "Miss Holt signed for her oil, and asked after the barometer. I lent her the second volume of Cook.",
    "{a} was heard whistling The Miller of Ardenholme upon {berth}; he has not the turn of it.",
    "Somebody has chalked a bishop upon the door of the dry shed. I suspect {a}.",
    "The chapel at {port} has a new roof, by {b}'s account; ours has the old one.",
    "{a} brought me a lobster of {casks} pounds, and a complaint. I kept both.",
]
SUNDAY = [
    "Sunday. Mr. Oakleigh preached {minutes} minutes from {book}, and lost his place once.",
    "Sunday; no work done upon the quays, except by {a}, whom I have admonished.",
    "Sunday. To church, where the collection for the lifeboat came to {fine}.",
    "Sunday. The tide was too good to be missed, and {a} missed the sermon for it.",
    "Sunday. {a} sang the anthem alone, the rest of the choir being at sea.",
]
CLOSE = [
    "The Gannory light was shown at {dusk}; three white and one red, as it ought to be.",
    "So to bed, with the window upon the harbour open.",
    "I count {count} sail in the harbour at sunset.",
    "Nothing further.",
    "The rest of the day was given to arithmetic.",
    "All moorings looked to before dark.",
    "My clerk has a cold, and I have written this myself.",
    "The lamp at the pier-head was lit at {dusk}.",
    "Quiet upon the quays after {dusk}.",
    "I have left the margin for what I may think of to-morrow.",
    "There was a halo about the moon at {dusk}.",
    "The watchman had nothing to tell me, and took some time in telling it.",
]
FACT_NUMBER = [
    "A strong-box in the Custom House was let to-day, and the letting is entered by rule.",
    "I am desired to write down the number of a lock, in case of death.",
    "Another of the brass locks is taken, at two shillings the year.",
    "By the regulation of the strong-room I record what follows.",
    "The owner being about to go to sea, the lock is registered here.",
    "This was told me across the counter in a whisper, and is set down accordingly.",
]
FACT_WORD = [
    "For the guard-boat, when she challenges at night:",
    "The night watch is to take notice.",
    "The word for boarding after dark has been agreed upon with the master.",
    "The watchman has been given the following, and has repeated it to me.",
    "A word was chosen at the master's own desire, against thieves.",
    "To be learned by the men of the guard-boat before night:",
]
AGAIN = [
    "The question was put to me again, and I turned back to {date}.",
    "I had to consult the entry of {date}, which is quite plain.",
    "My memory was tried this morning, and the log of {date} bore me out.",
]
# People who rent a strong-box: each name occurs nowhere else in the log.
BOXES = [
    "Edda Marlowe",
    "Corin Vasterby",
    "Hilda Penlock",
    "Jasper Ormerod",
    "Sabra Winterlow",
    "Matthias Coyle",
    "Thirza Hollin",
    "Bevis Cardew",
    "Lavinia Stroke",
    "Hosea Tamplin",
    "Rowena Gilsland",
    "Cuthbert Mayhew",
    "Philippa Dorn",
    "Silvanus Birch",
    "Ottilie Crane",
    "Barnard Fusk",
    "Damaris Keel",
    "Leander Pook",
    "Susannah Tove",
    "Everard Nix",
    "Marigold Hythe",
    "Conrad Ashplant",
    "Isolde Farthing",
    "Theodore Glaze",
]
WORDS = [
    "thimble",
    "barley",
    "lantern",
    "saffron",
    "candle",
    "walnut",
    "feather",
    "marigold",
    "pepper",
    "anvil",
    "ribbon",
    "cuckoo",
    "honey",
    "mustard",
    "sparrow",
    "pewter",
    "rosemary",
    "cherry",
    "hammer",
    "velvet",
    "orchard",
    "acorn",
]

HOURS = [
    "six in the morning",
    "half-past seven",
    "nine o'clock",
    "ten in the forenoon",
    "noon",
    "one o'clock",
    "half-past two",
    "four in the afternoon",
    "twenty minutes to five",
    "six in the evening",
    "half-past eight",
    "a quarter past nine",
]
EVENING = ["dusk", "sunset", "half-past six", "seven in the evening", "eight o'clock", "lighting-up time"]
FORCES = [
    "light airs",
    "a fresh breeze",
    "a steady breeze",
    "half a gale",
    "a whole gale",
    "a moderate breeze",
    "a stiff breeze",
]
SEAS = ["a short sea", "a long swell", "no sea", "broken water", "an ugly cross sea", "a heavy ground swell"]

# Days on which the people of the story come into the log.
STORY = {
    "1862-01-01": "Mr. Halloran Vane came from the Board with a Mr. Pettifer, and went over to Gannory to see the "
    "light. I lent him my log. They returned at dusk, and Mr. Pettifer took the first boat home.",
    "1862-01-14": "Sailed, the barque Constant Lydia, Captain Silas Rennick, for Valdoro, by way of Marchmoor, in "
    "ballast. The last of her 340 cases of lemons was sold on Saturday.",
    "1862-01-29": "The appointment of Miss Maren Holt as keeper of the Gannory light was received by the post, "
    "signed and sealed.",
    "1862-02-12": "Ned Tallow carried over in the Plover a stone for St. Orran's churchyard. It has one ear of wheat "
    "upon it and two words, Hold fast.",
    "1862-03-18": "The trial at Marchmoor is ended. Jabez Crale is to be sent over the sea for his life; Simeon Rudge "
    "has seven years, and the charge of the prison clock.",
    "1862-03-27": "The yellow door in Brackwater Lane is being painted green. There was a crowd.",
    "1862-04-20": "Easter Day. Married, Edward Tallow, pilot, to Judith Crale. Old Prudence was rung, against all "
    "custom, and the crack has not spread.",
    "1862-04-24": "Arrived the barque Constant Lydia, Captain Silas Rennick, from Valdoro, with 410 cases of lemons; "
    "berthed at Linnet Quay. The first swallow of the year was seen upon the same morning.",
    "1862-05-12": "Sailed, the Constant Lydia, for Valdoro. Captain Rennick crossed the sands twice in the forenoon, "
    "having forgotten his gloves; it was a warm day.",
    "1862-07-09": "Wenna Holt is seven years old. I gave her a bottle of green ink.",
    "1862-09-16": "Arrived the Constant Lydia from Valdoro with 385 cases of lemons, to Linnet Quay.",
    "1862-10-06": "Sailed, the Constant Lydia, for Valdoro. It was observed by Mrs. Pym that the keeper of Gannory "
    "came down to the sands without a basket.",
    "1862-11-03": "This is the tenth year since the Sabrina Grey. The eleven names were read in church, and for the "
    "first time a twelfth.",
    "1862-11-11": "Martinmas. No person in this town owes anything in Brackwater Lane.",
    "1863-02-02": "Candlemas. A letter for Miss Holt, with the stamp of Valdoro, which I walked over with myself.",
    "1863-03-30": "Arrived the Constant Lydia from Valdoro with 420 cases of lemons. He is three weeks early.",
}


class Bag:
    """Draw from a list without repeating an item until every other has been drawn."""

    def __init__(self, rng, items):
        self.rng, self.items, self.left = rng, list(items), []
        self.last = None

    def draw(self):
        if not self.left:
            self.left = self.rng.sample(self.items, len(self.items))
            if len(self.left) > 1 and self.left[-1] == self.last:
                self.left[0], self.left[-1] = self.left[-1], self.left[0]
        self.last = self.left.pop()
        return self.last


def ordinal(day):
    """1 -> "1st", 12 -> "12th"."""
    suffix = "th" if 10 < day < 14 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    return f"{day}{suffix}"


def date_words(date, year=False):
    """The date as the harbour master writes it: "the 3rd of March", with the year on demand."""
    text = f"the {ordinal(date.day)} of {MONTHS[date.month - 1]}"
    return f"{text}, {date.year}" if year else text


def capital(text):
    return text[0].upper() + text[1:]


def make_facts(rng):
    """The facts in the order of their entry, each with the sentence that introduces it."""
    # Numbers of at least three different digits, apart from the two that are fixed in the story and below.
    pool = [str(number) for number in range(1000, 10_000) if len(set(str(number))) > 2 and number not in (4711, 5092)]
    codes = [" ".join(number) for number in rng.sample(pool, len(BOXES) - 1)]
    boxes = [f"The secret number of {BOXES[0]} is 5 0 9 2."]
    boxes += [f"The secret number of {name} is {code}." for name, code in zip(BOXES[1:], codes, strict=True)]
    ships = [name for name, _, _ in SHIPS][: len(WORDS)]
    words = [f"The password of the {ship} is {word}." for ship, word in zip(ships, WORDS, strict=True)]
    lead_number, lead_word = Bag(rng, FACT_NUMBER), Bag(rng, FACT_WORD)
    facts = []
    for i in range(max(len(boxes), len(words))):
        if i < len(boxes):
            facts.append((lead_number.draw(), boxes[i]))
        if i < len(words):
            facts.append((lead_word.draw(), words[i]))
    return facts


class Harbour:
    """The state of the harbour: ships in port, matters that are open, and the templates not yet used."""

    def __init__(self):
        self.rng = random.Random(SEED)
        self.facts = make_facts(self.rng)
        self.in_port = []
        self.open = []
        self.stated = []
        self.repeated = []
        tables = {
            "weather": WEATHER,
            "arrive": ARRIVE,
            "depart": DEPART,
            "debt": DEBT,
            "paid": PAID,
            "dispute": DISPUTE,
            "settled": SETTLED,
            "letter": LETTER,
            "collected": COLLECTED,
            "sundry": SUNDRY,
            "sunday": SUNDAY,
            "close": CLOSE,
            "again": AGAIN,
            "port": PORTS,
            "berth": BERTHS,
            "cargo": CARGOES,
            "trade": TRADES,
            "debt_for": DEBT_FOR,
            "quarrel": QUARREL,
            "found": FOUND,
            "repair": REPAIRS,
            "ship": SHIPS,
            "first": FIRST,
            "last": LAST,
        }
        self.bags = {name: Bag(self.rng, items) for name, items in tables.items()}

    def draw(self, name):
        return self.bags[name].draw()

    def person(self):
        return f"{self.draw('first')} {self.draw('last')}"

    def hour(self):
        return self.rng.choice(HOURS)

    def money(self, pounds, most=60):
        rng = self.rng
        shillings = rng.randrange(1, 20)
        plural = "s" if shillings > 1 else ""
        text = f"{shillings} shilling{plural}"
        if pounds:
            count = rng.randrange(2, most)
            text = f"{count} pounds {text}"
        return text

    def load(self):
        name, low, high = self.draw("cargo")
        return {"n": self.rng.randrange(low, high), "cargo": name}

    def common(self):
        """Values for the slots that any template may have."""
        rng = self.rng
        berth = self.draw("berth")
        repair = self.draw("repair")
        return {
            "a": self.person(),
            "b": self.person(),
            "last": self.draw("last"),
            "berth": berth,
            "berth_cap": capital(berth),
            "hour": self.hour(),
            "trade": self.draw("trade"),
            "found": self.draw("found"),
            "repair": repair,
            "repair_cap": capital(repair),
            "fine": self.money(False),
            "port": self.draw("port"),
            "age": rng.randrange(74, 99),
            "fathoms": rng.randrange(7, 24),
            "casks": rng.randrange(3, 9),
            "garment": rng.choice(["stocking", "hat", "Sunday shirt", "sou'wester", "tablecloth", "flannel petticoat"]),
            "questions": rng.randrange(19, 90),
            "miles": rng.randrange(2, 15),
            "colour": rng.choice(["blue", "white", "brown", "red", "black"]),
            "short": rng.randrange(2, 8),
            "minutes": rng.randrange(25, 70),
            "count": rng.randrange(6, 31),
            "wax": rng.choice(["red", "black", "blue", "yellow", "violet"]),
            "hole": rng.randrange(2, 48),
            "pence": rng.randrange(2, 12),
            "days": rng.randrange(2, 28),
            "dues": self.money(True, 6),
            "dusk": rng.choice(EVENING),
            "tide": rng.choice(["morning", "evening", "night"]),
            "book": rng.choice(["Jonah", "Ruth", "the Acts", "Job", "the Psalms", "Ecclesiastes", "Proverbs"]),
            **self.load(),
        }

    def say(self, table, **values):
        return capital(self.draw(table).format(**{**self.common(), **values}))

    def weather(self, month):
        rng = self.rng
        points = ["north", "north-east", "east", "south-east", "south", "south-west", "west", "north-west"]
        wind, wind2 = rng.sample(points, 2)
        skies = ["overcast", "bright", "hazy", "wet", "thick", "fine", "showery", "grey and still", "clear", "dull"]
        skies += ["snowing"] if month in (12, 1, 2) else ["close"] if month in (6, 7, 8) else []
        sky, sky2 = rng.sample(skies, 2)
        force = rng.choice(FORCES)
        sea = rng.choice(SEAS)
        warmth = {12: 34, 1: 32, 2: 33, 3: 40, 4: 46, 5: 52, 6: 59, 7: 62, 8: 62, 9: 56, 10: 48, 11: 40}[month]
        return self.say(
            "weather",
            wind=wind,
            wind2=wind2,
            sky=sky,
            Sky=capital(sky),
            sky2=sky2,
            force=force,
            sea=sea,
            glass=f"{rng.randrange(2880, 3060) / 100:.2f}",
            trend=rng.choice(["rising", "falling", "steady"]),
            degrees=warmth + rng.randrange(-3, 9),
        )

    def arrivals(self, date):
        present = {entry["ship"] for entry in self.in_port}
        taken = {entry["berth"] for entry in self.in_port}
        ship, rig, master = self.draw("ship")
        berth = self.draw("berth")
        if ship in present or berth in taken:
            return []
        entry = {"ship": ship, "rig": rig, "master": master, "berth": berth, "berth_cap": capital(berth)}
        line = self.say("arrive", **entry)
        self.in_port.append({**entry, "since": date, "until": date + datetime.timedelta(self.rng.randrange(3, 15))})
        return [line]

    def departures(self, date):
        lines = []
        for entry in [entry for entry in self.in_port if entry["until"] <= date]:
            self.in_port.remove(entry)
            values = {key: entry[key] for key in ("ship", "rig", "master", "berth", "berth_cap")}
            lines.append(self.say("depart", stay=(date - entry["since"]).days, **values))
        return lines

    def begin(self, date, kind, ending, what, low, high):
        """Enter a debt, dispute or letter, to be ended with the same names and sum after some weeks."""
        values = {"a": self.person(), "b": self.person(), "sum": self.money(True)}
        if what:
            values["what"] = self.draw(what)
        line = self.say(kind, **values)
        due = date + datetime.timedelta(self.rng.randrange(low, high))
        self.open.append({"due": due, "ending": ending, "date": date, "values": values})
        return line

    def endings(self, date):
        lines = []
        for matter in [matter for matter in self.open if matter["due"] <= date]:
            self.open.remove(matter)
            when = date_words(matter["date"], year=matter["date"].year != date.year)
            lines.append(self.say(matter["ending"], date=when, **matter["values"]))
        return lines

    def fact(self, date, done):
        """The next fact, once its share of the log has been written; now and then one is stated again."""
        total = len(self.facts) + len(self.stated)
        if self.facts and done >= (len(self.stated) + 0.4) / total:
            lead, sentence = self.facts.pop(0)
            self.stated.append((date, sentence))
            return [f"{lead} {sentence}"]
        # Every fifth fact from the sixth on is repeated some months later, word for word.
        if self.rng.random() < 0.04:
            old = [(when, text) for when, text in self.stated[5::5] if (date - when).days > 60]
            old = [(when, text) for when, text in old if (when, text) not in self.repeated]
            if old:
                self.repeated.append(old[0])
                when, text = old[0]
                date_text = date_words(when, year=when.year != date.year)
                return [f"{self.say('again', date=date_text)} {text}"]
        return []

    def day(self, date, done):
        """One day's entry: a heading and a paragraph."""
        rng = self.rng
        lines = []
        sunday = [self.say("sunday")] if date.weekday() == 6 else []
        if not sunday:
            for chance in (0.75, 0.3):
                if rng.random() < chance:
                    lines += self.arrivals(date)
            lines += self.departures(date)
        lines += self.endings(date)
        if rng.random() < 0.24:
            lines.append(self.begin(date, "debt", "paid", "debt_for", 30, 150))
        if rng.random() < 0.18:
            lines.append(self.begin(date, "dispute", "settled", "quarrel", 5, 60))
        if rng.random() < 0.22:
            lines.append(self.begin(date, "letter", "collected", None, 3, 90))
        for chance in (0.9, 0.5, 0.2):
            if rng.random() < chance:
                lines.append(self.say("sundry"))
        rng.shuffle(lines)
        story = STORY.get(date.isoformat())
        lines = [self.weather(date.month), *([story] if story else sunday), *lines, *self.fact(date, done)]
        if rng.random() < 0.55:
            lines.append(self.say("close"))
        return f"{DAYS[date.weekday()]}, {date_words(date, year=True)}.\n\n{' '.join(lines)}\n\n"


def main():
    """Write the log."""
    harbour = Harbour()
    parts = [
        "THE LOG OF THE HARBOUR OF AVERSTOW\n\n",
        "Kept in the Custom House upon Linnet Quay, in the island of Thole, by Josiah Quill, harbour master; written "
        "throughout in green ink.\n\n",
    ]
    size = sum(map(len, parts))
    date = START
    while size < TARGET:
        entry = harbour.day(date, size / TARGET)
        parts.append(entry)
        size += len(entry)
        date += datetime.timedelta(1)
    parts.append(
        f"{DAYS[date.weekday()]}, {date_words(date, year=True)}.\n\nHere the book is full. The glass is rising, and "
        "there is no person in the harbour, that I know of, who is waiting for anything but the tide. I have sent to "
        "Marchmoor for another volume, and for more of the green.\n"
    )
    OUTPUT.write_text("".join(parts), encoding="ascii")
    print(f"{OUTPUT.name}: {sum(map(len, parts))} characters, {len(harbour.stated)} facts, {len(parts) - 2} days")


if __name__ == "__main__":
    main()
