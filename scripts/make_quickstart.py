#!/usr/bin/env python3
"""Write the quickstart's prompts, the same bytes on every run: word problems with whole-number answers.

Usage: scripts/make_quickstart.py [PATH], by default cluster/quickstart/prompts.jsonl.
"""

import json
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

PROBLEMS = 594
DUPLICATES = 6
SEED = 20261122
PATH = Path(__file__).resolve().parent.parent / "cluster" / "quickstart" / "prompts.jsonl"

Problem: TypeAlias = tuple[str, int]
PEOPLE = (
    "Amara",
    "Ben",
    "Chloe",
    "Dario",
    "Farid",
    "Grace",
    "Hugo",
    "Ines",
    "Kavya",
    "Liam",
    "Mei",
    "Noor",
    "Oscar",
    "Rosa",
)


def tickets(rng: random.Random) -> Problem:
    adults, children = rng.randint(2, 9), rng.randint(2, 12)
    adult, child = rng.randint(9, 18), rng.randint(4, 8)
    text = (
        f"A museum charges ${adult} for an adult ticket and ${child} for a child ticket. "
        f"How many dollars does a group of {adults} adults and {children} children pay?"
    )
    return text, adults * adult + children * child


def change(rng: random.Random) -> Problem:
    name, price, count = rng.choice(PEOPLE), rng.randint(2, 9), rng.randint(3, 9)
    return (
        f"{name} buys {count} notebooks at ${price} each and pays with a $100 note. How many dollars come back?",
        100 - price * count,
    )


def savings(rng: random.Random) -> Problem:
    name, start, weekly, weeks = rng.choice(PEOPLE), rng.randint(10, 90), rng.randint(5, 25), rng.randint(4, 12)
    spent = rng.randint(5, start)
    text = (
        f"{name} has ${start} in a jar, adds ${weekly} at the end of every week for {weeks} weeks, "
        f"and then spends ${spent} on a present. How many dollars are left in the jar?"
    )
    return text, start + weekly * weeks - spent


def wages(rng: random.Random) -> Problem:
    name, rate, days, hours = rng.choice(PEOPLE), rng.randint(11, 29), rng.randint(3, 6), rng.randint(4, 8)
    return (
        f"{name} works {hours} hours a day on {days} days and earns ${rate} an hour. What is the total pay in dollars?",
        rate * days * hours,
    )


def overtime(rng: random.Random) -> Problem:
    name, rate, extra = rng.choice(PEOPLE), 2 * rng.randint(6, 14), rng.randint(2, 9)
    text = (
        f"{name} is paid ${rate} an hour for the first 40 hours of a week and one and a half times as much for every "
        f"hour beyond that. How many dollars does {name} earn in a week of {40 + extra} hours?"
    )
    return text, 40 * rate + extra * rate * 3 // 2


def discount(rng: random.Random) -> Problem:
    price, percent = 20 * rng.randint(2, 30), rng.choice([5, 10, 15, 20, 25, 30, 40])
    item = rng.choice(["coat", "bicycle", "desk", "tent", "guitar", "camera"])
    return (
        f"A {item} that costs ${price} is reduced by {percent}%. What is the new price in dollars?",
        price * (100 - percent) // 100,
    )


def tip(rng: random.Random) -> Problem:
    bill, percent, people = 40 * rng.randint(2, 12), rng.choice([5, 10, 15, 20]), rng.choice([2, 4])
    while bill * (100 + percent) % (100 * people):
        bill += 40
    text = (
        f"{people} friends share a restaurant bill of ${bill} equally, after adding a tip of {percent}%. "
        "How many dollars does each of them pay?"
    )
    return text, bill * (100 + percent) // (100 * people)


def interest(rng: random.Random) -> Problem:
    amount, rate, years = 100 * rng.randint(3, 40), rng.randint(2, 9), rng.randint(2, 8)
    return (
        f"A bank pays {rate}% simple interest a year on ${amount}. How many dollars does it pay in {years} years?",
        amount * rate * years // 100,
    )


def percent_of(rng: random.Random) -> Problem:
    students, percent = 20 * rng.randint(4, 40), rng.choice([15, 20, 25, 35, 45, 55, 60, 75])
    return (
        f"Of the {students} students at a school, {percent}% come by bus and the others walk. How many students walk?",
        students * (100 - percent) // 100,
    )


def distance(rng: random.Random) -> Problem:
    first, second, hours, more = rng.randint(40, 95), rng.randint(40, 95), rng.randint(2, 5), rng.randint(2, 5)
    text = (
        f"A van drives for {hours} hours at {first} km/h and then for {more} hours at {second} km/h. "
        "How many kilometres does it cover in all?"
    )
    return text, first * hours + second * more


def travel_time(rng: random.Random) -> Problem:
    speed, hours, stop = rng.randint(40, 110), rng.randint(2, 9), 5 * rng.randint(2, 11)
    text = (
        f"A coach covers {speed * hours} km at a steady {speed} km/h and stops once for {stop} minutes. "
        "How many minutes does the whole journey take?"
    )
    return text, hours * 60 + stop


def trains_meet(rng: random.Random) -> Problem:
    first, second, hours = rng.randint(60, 120), rng.randint(60, 120), rng.randint(2, 6)
    text = (
        f"Two towns are {(first + second) * hours} km apart. At the same moment a train leaves each town towards the "
        f"other, one at {first} km/h and one at {second} km/h. After how many hours do they meet?"
    )
    return text, hours


def train_seats(rng: random.Random) -> Problem:
    cars, seats, on, off = rng.randint(5, 12), rng.randint(48, 80), rng.randint(110, 200), rng.randint(20, 90)
    text = (
        f"A train has {cars} cars with {seats} seats each. It leaves with {on} passengers, and at the first station "
        f"{off} of them get off and nobody gets on. How many seats are then free?"
    )
    return text, cars * seats - on + off


def running(rng: random.Random) -> Problem:
    name, metres = rng.choice(PEOPLE), rng.choice([200, 250, 300, 400])
    laps, days = rng.randint(4, 12), rng.randint(3, 6)
    return (
        f"{name} runs {laps} laps of a {metres} m track on each of {days} days. How many metres is that altogether?",
        laps * metres * days,
    )


def ages_later(rng: random.Random) -> Problem:
    younger, older = rng.sample(PEOPLE, 2)
    age, gap, years = rng.randint(5, 20), rng.randint(2, 15), rng.randint(3, 20)
    text = (
        f"{older} is {gap} years older than {younger}, who is {age} years old. "
        f"What will the sum of their ages be in {years} years?"
    )
    return text, 2 * age + gap + 2 * years


def ages_ratio(rng: random.Random) -> Problem:
    child, parent = rng.sample(PEOPLE, 2)
    age, times, ago = rng.randint(8, 15), rng.randint(3, 5), rng.randint(2, 6)
    text = f"{parent} is {times} times as old as {child}, who is {age} years old. How old was {parent} {ago} years ago?"
    return text, times * age - ago


def sharing(rng: random.Random) -> Problem:
    name, friends, each, kept = rng.choice(PEOPLE), rng.randint(3, 9), rng.randint(3, 14), rng.randint(2, 12)
    text = (
        f"{name} has {friends * each + kept} marbles, keeps {kept} of them and shares the others equally among "
        f"{friends} friends. How many marbles does each friend get?"
    )
    return text, each


def sweets_left(rng: random.Random) -> Problem:
    bags, sweets, children = rng.randint(3, 9), rng.randint(12, 30), rng.randint(7, 19)
    text = (
        f"A teacher opens {bags} bags of {sweets} sweets and gives {children} children as many as possible, the same "
        "number to each. How many sweets are left over?"
    )
    return text, bags * sweets % children


def recipe_scale(rng: random.Random) -> Problem:
    people, grams, times = rng.randint(2, 6), 25 * rng.randint(4, 20), rng.randint(2, 6)
    food = rng.choice(["flour", "rice", "pasta", "lentils"])
    return (
        f"A recipe for {people} people needs {grams} g of {food}. How many grams do {people * times} people need?",
        grams * times,
    )


def cookies(rng: random.Random) -> Problem:
    trays, per_tray, box = rng.randint(4, 9), rng.choice([12, 15, 18, 20, 24]), rng.randint(4, 8)
    baked, broken = trays * per_tray, rng.randint(2, 9)
    broken += (baked - broken) % box
    text = (
        f"A baker fills {trays} trays with {per_tray} cookies each. {broken} cookies break, and the others are packed "
        f"into boxes of {box}. How many full boxes are there?"
    )
    return text, (baked - broken) // box


def juice(rng: random.Random) -> Problem:
    bottles, glass = rng.randint(2, 9), rng.choice([125, 150, 200, 250])
    size = glass * rng.randint(4, 8)
    return (
        f"A party has {bottles} bottles of juice with {size} ml each. How many glasses of {glass} ml can be filled?",
        bottles * size // glass,
    )


def orchard(rng: random.Random) -> Problem:
    rows, trees, fruit = rng.randint(4, 15), rng.randint(6, 20), rng.randint(15, 60)
    kind = rng.choice(["apples", "pears", "plums", "peaches"])
    text = (
        f"An orchard has {rows} rows of {trees} trees, and every tree bears {fruit} {kind}. "
        f"How many {kind} does the orchard bear?"
    )
    return text, rows * trees * fruit


def fence(rng: random.Random) -> Problem:
    length, width, price = rng.randint(41, 80), rng.randint(6, 40), rng.randint(7, 25)
    text = (
        f"A rectangular garden is {length} m long and {width} m wide. A fence around it costs ${price} a metre. "
        "How many dollars does the whole fence cost?"
    )
    return text, 2 * (length + width) * price


def carpet(rng: random.Random) -> Problem:
    length, width, rug = rng.randint(8, 14), rng.randint(4, 7), rng.randint(2, 3)
    text = (
        f"A room measures {length} m by {width} m. A square rug with sides of {rug} m lies on the floor. "
        "How many square metres of floor stay uncovered?"
    )
    return text, length * width - rug * rug


def tank(rng: random.Random) -> Problem:
    fill, leak, minutes = rng.randint(14, 40), rng.randint(2, 9), rng.randint(10, 60)
    text = (
        f"A pump fills a tank with {fill} litres of water a minute, while {leak} litres a minute leak out. "
        f"How many litres are in the tank after {minutes} minutes, if it was empty at first?"
    )
    return text, (fill - leak) * minutes


def pages(rng: random.Random) -> Problem:
    name, daily, days, weekend = rng.choice(PEOPLE), rng.randint(12, 40), rng.randint(3, 9), rng.randint(30, 90)
    left = rng.randint(10, 120)
    total = daily * days + weekend + left
    text = (
        f"{name} is reading a book of {total} pages: first {daily} pages a day for {days} days, then {weekend} pages "
        "over the weekend. How many pages remain?"
    )
    return text, left


def library(rng: random.Random) -> Problem:
    books, lent, back, bought = rng.randint(300, 900), rng.randint(80, 200), rng.randint(20, 79), rng.randint(10, 60)
    text = (
        f"A library has {books} books on its shelves. On Monday {lent} books are lent; on Tuesday {back} come back "
        f"and {bought} new ones are bought. How many books are on the shelves then?"
    )
    return text, books - lent + back + bought


def stamps(rng: random.Random) -> Problem:
    first, second = rng.sample(PEOPLE, 2)
    count, times, given = rng.randint(15, 60), rng.randint(2, 6), rng.randint(3, 7)
    text = (
        f"{first} has {times} times as many stamps as {second}, who has {count}. {first} gives {second} {given} "
        f"stamps. How many more stamps than {second} does {first} have now?"
    )
    return text, times * count - given - (count + given)


def average(rng: random.Random) -> Problem:
    name, scores = rng.choice(PEOPLE), [rng.randint(60, 95) for _ in range(3)]
    mean = rng.randint(76, 84)
    last = 4 * mean - sum(scores)
    while not 50 <= last <= 100:
        scores = [rng.randint(60, 95) for _ in range(3)]
        last = 4 * mean - sum(scores)
    text = (
        f"{name} scores {scores[0]}, {scores[1]} and {scores[2]} points in three tests. "
        f"How many points does {name} need in the fourth test for an average of {mean}?"
    )
    return text, last


def factory(rng: random.Random) -> Problem:
    machines, parts = rng.randint(3, 9), 20 * rng.randint(2, 9)
    hours, percent = rng.randint(5, 12), rng.choice([5, 10, 15])
    text = (
        f"A factory has {machines} machines that make {parts} parts an hour each. In a shift of {hours} hours "
        f"{percent}% of the parts fail inspection. How many parts pass?"
    )
    return text, machines * parts * hours * (100 - percent) // 100


def phone(rng: random.Random) -> Problem:
    fee, cents = rng.randint(8, 25), rng.choice([5, 10, 20, 25])
    free, used = 50 * rng.randint(2, 6), 20 * rng.randint(3, 12)
    text = (
        f"A phone plan costs ${fee} a month with {free} minutes included; every further minute costs {cents} cents. "
        f"How many dollars is the bill for a month with {free + used} minutes?"
    )
    return text, fee + used * cents // 100


def eggs(rng: random.Random) -> Problem:
    hens, days, price = rng.randint(4, 12), 6 * rng.randint(1, 5), rng.randint(3, 6)
    text = (
        f"Each of {hens} hens lays one egg a day. The eggs of {days} days are sold at ${price} the half dozen. "
        "How many dollars does that bring in?"
    )
    return text, hens * days // 6 * price


TEMPLATES: tuple[Callable[[random.Random], Problem], ...] = (
    tickets, change, savings, wages, overtime, discount, tip, interest, percent_of, distance, travel_time,
    trains_meet, train_seats, running, ages_later, ages_ratio, sharing, sweets_left, recipe_scale, cookies,
    juice, orchard, fence, carpet, tank, pages, library, stamps, average, factory, phone, eggs,
)  # fmt: skip


def problems() -> list[Problem]:
    """Different problems, the templates in turn, in shuffled order."""
    rng = random.Random(SEED)
    found: dict[str, int] = {}
    while len(found) < PROBLEMS:
        text, answer = TEMPLATES[len(found) % len(TEMPLATES)](rng)
        assert answer >= 0, text
        found.setdefault(text, answer)
    rows = list(found.items())
    rng.shuffle(rows)
    for _ in range(DUPLICATES):
        rows.insert(rng.randint(PROBLEMS // 2, len(rows)), rows[rng.randrange(PROBLEMS // 2)])
    return rows


def lines() -> Iterator[str]:
    """The rows as JSONL; `prompt` and `answer` are also the names under which the simulator reads right answers."""
    for number, (text, answer) in enumerate(problems(), 1):
        yield json.dumps({"id": f"q{number:04}", "prompt": text, "answer": str(answer)}) + "\n"


if __name__ == "__main__":
    (Path(sys.argv[1]) if sys.argv[1:] else PATH).write_text("".join(lines()), encoding="utf-8")
